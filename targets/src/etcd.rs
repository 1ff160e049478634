//! etcd as a target: compare-and-swap transactions on distinct keys.
