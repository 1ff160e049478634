//! Which threads go before others, where the operating system knows threads apart.

/// What a thread is for, by who may wait for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Sends load at the instant it is due. Needs a hundredth of a core.
    Instrument,
    /// What nobody waits for here: checkpoints, merging tables; and stretching passwords, which people
    /// do on their own phones.
    Background,
}

impl Priority {
    /// Gives the calling thread this priority, and those that it starts from now on. To go before
    /// others takes a permission (root, or a limit for nice); without it the thread stays as it is.
    pub fn take(self) {
        #[cfg(target_os = "linux")]
        {
            let thread = rustix::thread::gettid();
            // Refused or not, it runs; what it costs where threads compete is measured.
            let _refused =
                rustix::process::setpriority_process(Some(thread), self.niceness()).is_err();
        }
    }

    /// Steps of niceness: each is a quarter more, or less, of a processor that others want too.
    #[cfg(target_os = "linux")]
    const fn niceness(self) -> i32 {
        match self {
            Self::Instrument => -10,
            Self::Background => 10,
        }
    }
}
