//! Kills the processes of a pod as a fault of the machine would: none of them is asked first.
//!
//! `kubectl delete`, with whatever period of grace, sends SIGTERM before; and from inside of a pod its first process
//! cannot be killed. So this runs on the pod's node, among the node's processes (`hostPID`).

use std::{fs, io, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

/// What keeps a pod's addresses: with it the pod would go, not only its containers.
const SANDBOX: &str = "pause";

/// What was killed, as a line of output.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Killed {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// Kills every process of the pod with this UID; whether there was one.
///
/// # Errors
/// Where the processes cannot be listed, or one cannot be killed.
pub fn run(pod: &str, print: impl FnMut(&Killed)) -> io::Result<bool> {
    kill_in(Path::new("/proc"), pod, print)
}

fn kill_in(processes: &Path, pod: &str, mut print: impl FnMut(&Killed)) -> io::Result<bool> {
    // The name of a cgroup of systemd has no hyphens.
    let [id, other] = [pod.to_owned(), pod.replace('-', "_")];
    let mut any = false;
    for entry in fs::read_dir(processes)? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // One that ends meanwhile has no files any more.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let (cgroup, name) = (read("cgroup"), read("comm").trim().to_owned());
        if (cgroup.contains(&id) || cgroup.contains(&other)) && name != SANDBOX {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            print(&Killed { pid, name });
            any = true;
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const POD: &str = "0b5f1c9e-7a57-4a0e-9d0b-1f2e3d4c5b6a";

    /// A process, and what a node would say of it.
    fn process(processes: &Path, cgroup: &str, name: &str) -> std::process::Child {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process");
        let folder = processes.join(child.id().to_string());
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("it is written");
        fs::write(folder.join("comm"), format!("{name}\n")).expect("it is written");
        child
    }

    #[test]
    fn the_processes_of_a_pod_are_killed_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let underscored = POD.replace('-', "_");
        let mut pods = [
            process(folder.path(), &format!("/../burstable/pod{POD}/4711"), "service"),
            process(folder.path(), &format!("/kubepods.slice/kubepods-pod{underscored}.slice/cri-1.scope"), "service"),
        ];
        let mut others = [
            process(folder.path(), &format!("/kubepods/burstable/pod{POD}/4712"), SANDBOX),
            process(folder.path(), "/kubepods/burstable/pod5d2b3f57-7a57-4a0e-9d0b-1f2e3d4c5b6a/1", "service"),
        ];
        fs::write(folder.path().join("version"), "no process").expect("it is written");
        let mut killed = Vec::new();
        assert!(kill_in(folder.path(), POD, |one| killed.push(one.pid)).expect("they can be killed"));
        let mut expected = pods.each_ref().map(|child| child.id().cast_signed());
        killed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(killed, expected);
        for pod in &mut pods {
            assert!(!pod.wait().expect("it ends").success());
        }
        for other in &mut others {
            assert_eq!(other.try_wait().expect("a child"), None);
            other.kill().expect("it is killed");
            other.wait().expect("it ends");
        }
        assert!(!kill_in(folder.path(), "of-nobody", |_| ()).expect("nothing to do"));
    }
}
