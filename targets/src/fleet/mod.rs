//! A replica as a process: its sockets, its links to the others, and what is injected into them.
