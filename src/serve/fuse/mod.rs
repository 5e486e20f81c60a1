//! A mount: what [`shown`] describes, as files that any program can read. Works as an ordinary user.
//!
//! In here: `server` answers the kernel · `inodes` numbers without a growing table · `attributes` what `stat` shows ·
//! `log` what goes wrong ·
//! `umount` ending a mount from outside. Not in here: what is shown, and whether a mount runs in the background.

mod attributes;
mod inodes;
pub mod log;
mod server;
pub mod shown;
pub mod umount;

use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};

use attributes::Owner;
use log::Log;
use server::Server;
use shown::Folder;

/// Fewest and most threads that answer the kernel, two for each core: a reader must not wait for another's blob, and each
/// answers the quicker the more it has to do.
const THREADS: (usize, usize) = (4, 16);

/// How a mount is made.
pub struct MountOptions {
    /// What the list of mounts shows as its source.
    pub source: String,
    /// Whether other users may look: then the kernel checks the modes of files.
    pub allow_other: bool,
}

/// A mount that answers nobody yet.
pub struct Mounted {
    session: Session<Server>,
}

/// Ends a mount from another thread.
pub struct Unmounter(SessionUnmounter);

/// Mounts `root` at `folder`. The kernel knows it when this returns; [`Mounted::serve`] then answers.
///
/// # Errors
/// What the system, or `fusermount3` for an ordinary user, said.
pub fn mount(root: Arc<dyn Folder>, folder: &Path, options: &MountOptions, log: Log) -> io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("abbild".to_owned()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some((2 * cores).clamp(THREADS.0, THREADS.1));
    config.clone_fd = true;
    let owner = Owner { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() };
    Session::new(Server::new(root, owner, log), folder, &config).map(|session| Mounted { session })
}

impl Mounted {
    /// What ends it from elsewhere (a signal).
    pub fn unmounter(&mut self) -> Unmounter {
        Unmounter(self.session.unmount_callable())
    }

    /// Answers the kernel until it is unmounted.
    ///
    /// # Errors
    /// What broke the connection to the kernel.
    pub fn serve(self) -> io::Result<()> {
        self.session.run()
    }
}

impl Unmounter {
    /// Unmounts; the server then ends.
    ///
    /// # Errors
    /// What the system said; a mount in use stays.
    pub fn unmount(&mut self) -> io::Result<()> {
        self.0.unmount()
    }
}
