//! Which services there are: in a cluster from its API server, elsewhere from flags.
