//! The decision, in memory and in order of arrival, about a batch of changes whose rows are locked.

use std::collections::HashMap;

use crate::model::{Action, Change, Counters, MAX_QUANTITY, ProductId, Reason, Refusal, Stock};

/// The outcome of a batch.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// The answers, in order of the changes.
    pub(super) answers: Vec<Result<Stock, Refusal>>,
    /// What to add to the ledger, in order.
    pub(super) entries: Vec<Entry>,
}

/// A movement to be: the counters after it, and what led there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) product_id: ProductId,
    pub(crate) kind: &'static str,
    pub(crate) on_hand_delta: i64,
    pub(crate) after: Counters,
    pub(crate) reason: Option<Reason>,
}

/// Decides each change on the counters that those before it left behind.
pub(super) fn decide(changes: &[Change], counters: &mut HashMap<ProductId, Counters>) -> Decision {
    let mut decision = Decision::default();
    for Change { product_id, action } in changes {
        let before = counters.get(product_id).copied().unwrap_or_default();
        let answer = apply(action, before).map(|after| {
            counters.insert(product_id.clone(), after);
            let (kind, reason) = match action {
                Action::Set(_) => ("set", None),
                Action::Adjust(_, reason) => ("adjust", reason.clone()),
            };
            let on_hand_delta = after.on_hand - before.on_hand;
            decision.entries.push(Entry { product_id: product_id.clone(), kind, on_hand_delta, after, reason });
            Stock::new(product_id.clone(), after)
        });
        decision.answers.push(answer);
    }
    decision
}

/// The counters after the action.
fn apply(action: &Action, before: Counters) -> Result<Counters, Refusal> {
    let on_hand = match action {
        Action::Set(quantity) => quantity.0,
        // Both are within 2^53 of zero: the sum does not overflow.
        Action::Adjust(delta, _) => before.on_hand + delta.0,
    };
    if on_hand < before.reserved {
        return Err(Refusal::InsufficientStock { left: on_hand, reserved: before.reserved });
    }
    if on_hand > MAX_QUANTITY {
        return Err(Refusal::TooLarge);
    }
    Ok(Counters { on_hand, version: before.version + 1, ..before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delta, Quantity};

    fn product() -> ProductId {
        ProductId::try_from("p".to_owned()).expect("valid")
    }

    fn run(before: Counters, actions: Vec<Action>) -> (Vec<Result<i64, Refusal>>, Vec<Entry>, Counters) {
        let mut counters = HashMap::from([(product(), before)]);
        let changes: Vec<_> = actions.into_iter().map(|action| Change { product_id: product(), action }).collect();
        let decision = decide(&changes, &mut counters);
        let answers = decision.answers.into_iter().map(|answer| answer.map(|stock| stock.stock)).collect();
        (answers, decision.entries, counters[&product()])
    }

    fn adjust(delta: i64) -> Action {
        Action::Adjust(Delta(delta), None)
    }

    #[test]
    fn each_change_sees_those_before_it() {
        let (answers, entries, after) =
            run(Counters::default(), vec![Action::Set(Quantity(5)), adjust(-3), adjust(-3), adjust(1)]);
        let refusal = Refusal::InsufficientStock { left: -1, reserved: 0 };
        assert_eq!(answers, [Ok(5), Ok(2), Err(refusal), Ok(3)]);
        assert_eq!(entries.iter().map(|entry| entry.after.version).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(entries.iter().map(|entry| entry.on_hand_delta).sum::<i64>(), after.on_hand);
    }

    #[test]
    fn nothing_falls_under_what_is_reserved() {
        let before = Counters { on_hand: 10, reserved: 4, version: 7 };
        let (answers, _, after) = run(before, vec![Action::Set(Quantity(3)), adjust(-7), adjust(-6)]);
        assert_eq!(answers[0], Err(Refusal::InsufficientStock { left: 3, reserved: 4 }));
        assert_eq!(answers[1], Err(Refusal::InsufficientStock { left: 3, reserved: 4 }));
        assert_eq!(answers[2], Ok(0));
        assert_eq!(after, Counters { on_hand: 4, reserved: 4, version: 8 });
    }

    #[test]
    fn nothing_grows_beyond_what_json_carries() {
        let before = Counters { on_hand: MAX_QUANTITY - 1, ..Counters::default() };
        let (answers, _, _) = run(before, vec![adjust(1), adjust(1), adjust(MAX_QUANTITY)]);
        assert_eq!(answers, [Ok(MAX_QUANTITY), Err(Refusal::TooLarge), Err(Refusal::TooLarge)]);
    }
}
