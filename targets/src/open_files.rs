//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit on open file descriptors; `None`: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFilesLimit {
    /// What holds now.
    pub soft: Option<u64>,
    /// As far as the process may raise it.
    pub hard: Option<u64>,
}

impl OpenFilesLimit {
    /// What the operating system says.
    #[must_use]
    pub fn read() -> Self {
        let limit = getrlimit(Resource::Nofile);
        Self { soft: limit.current, hard: limit.maximum }
    }

    /// Raises the limit as far as the process may. Low limits are from times in which `select` broke beyond
    /// them; nothing here uses it. What held before, if it was raised.
    pub fn raise() -> Option<u64> {
        let Self { soft, hard } = Self::read();
        let raised = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
        soft.filter(|_| soft != hard && raised.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_once() {
        let before = OpenFilesLimit::read();
        let raised = OpenFilesLimit::raise();
        assert_eq!(raised, before.soft.filter(|_| before.soft != before.hard));
        let now = OpenFilesLimit::read();
        assert_eq!((now.soft, now.hard), (before.hard, before.hard));
        assert_eq!(OpenFilesLimit::raise(), None);
    }
}
