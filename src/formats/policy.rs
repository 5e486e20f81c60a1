//! Which files an image may make us open.
//!
//! A name inside an image is input from whoever sent the image. It becomes a path here and nowhere else, and the file it
//! leads to is opened only if, after every symlink, it is a regular file below one of the allowed folders.
//!
//! Not in here: what the opened files contain. Source of the rules: the data exfiltration through backing file names
//! that QEMU and OpenStack were hit by (a disk whose parent is `/etc/shadow`, `nbd:…`, `json:…`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::ImageFile;
use super::{ImageError, excerpt};
use crate::archive;

/// Names beginning so are locations to some hypervisor, never files of ours.
const LOCATION_PREFIXES: [&str; 16] = [
    "json:",
    "nbd:",
    "nbd+",
    "file:",
    "fat:",
    "vvfat:",
    "host_device:",
    "host_cdrom:",
    "http:",
    "https:",
    "ftp:",
    "ssh:",
    "rbd:",
    "iscsi:",
    "blkdebug:",
    "blkverify:",
];

/// Longest name of a file, which may have folders in it: `PATH_MAX` with its NUL.
const NAME_BYTES_MAX: usize = 4095;

/// The folders that an image and the files it names must lie in.
#[derive(Clone, Debug)]
pub struct OpenPolicy {
    /// Canonical folders.
    roots: Vec<PathBuf>,
    top: TopImage,
    /// Whether what is opened is read only once.
    once: bool,
}

/// What the first image of a chain may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopImage {
    /// The user's own words: anywhere, and a block device is fine.
    NamedByUser,
    /// A name from a definition file: a regular file in the allowed folders.
    NamedByFile,
}

impl OpenPolicy {
    /// For an image that the user named: it may lie anywhere and may be a block device; what it names must lie in its
    /// own folder.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the image is not there.
    pub fn named_by_user(image: &Path) -> Result<OpenPolicy, ImageError> {
        if let Some((archive, _)) = archive::through(image) {
            return OpenPolicy::named_by_user(&archive);
        }
        let real = canonical(image)?;
        let policy = OpenPolicy { roots: Vec::new(), top: TopImage::NamedByUser, once: false };
        // A symlink to an image: its neighbours may lie beside the link or beside what it leads to.
        policy.allow(folder_of(image))?.allow(folder_of(&real))
    }

    /// For images that a definition file in `folder` names: they and all they name must lie in it.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the folder is not there.
    pub fn within(folder: &Path) -> Result<OpenPolicy, ImageError> {
        OpenPolicy { roots: Vec::new(), top: TopImage::NamedByFile, once: false }.allow(folder)
    }

    /// What is opened is to be read once: it need not fill the host's page cache.
    #[must_use]
    pub fn reading_once(self) -> OpenPolicy {
        OpenPolicy { once: true, ..self }
    }

    /// Also allows `folder` and all below it.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the folder is not there.
    pub fn allow(mut self, folder: &Path) -> Result<OpenPolicy, ImageError> {
        let real = canonical(folder)?;
        if !self.roots.contains(&real) {
            self.roots.push(real);
        }
        Ok(self)
    }

    /// Opens the first image of a chain.
    pub(crate) fn open_top(&self, path: &Path) -> Result<ImageFile, ImageError> {
        if let Some((archive, name)) = archive::through(path) {
            return self.open_top(&archive)?.member(&name);
        }
        if self.top == TopImage::NamedByFile {
            let wanted = path.display().to_string();
            return self.open_below_roots(path, "image", &wanted, path);
        }
        let kind = std::fs::metadata(path).map_err(io_error(path))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let feature = format!("{} as an image", kind_name(kind));
            return Err(ImageError::Unsupported { file: path.to_path_buf(), feature });
        }
        let file = File::options()
            .read(true)
            .custom_flags(flag_bits(OFlags::NONBLOCK | OFlags::NOCTTY))
            .open(path)
            .and_then(|file| self.take(path, file));
        file.map_err(io_error(path))
    }

    fn take(&self, path: &Path, file: File) -> io::Result<ImageFile> {
        let file = ImageFile::new(path, file)?;
        Ok(if self.once { file.read_once() } else { file })
    }

    /// Opens the file that the image `named_by` calls `name` and uses as its `role`. The second value is a warning.
    pub(crate) fn open_named(
        &self,
        named_by: &Path,
        role: &'static str,
        name: &[u8],
    ) -> Result<(ImageFile, Option<String>), ImageError> {
        let wanted = excerpt(name);
        let forbidden = |reason: &str| ImageError::Forbidden {
            named_by: named_by.to_path_buf(),
            role,
            wanted: wanted.clone(),
            reason: reason.to_string(),
        };
        if archive::through(named_by).is_some() {
            return Err(forbidden("an image inside an archive stands alone"));
        }
        let name = FileName::parse(name).map_err(forbidden)?;
        let folder = folder_of(named_by);
        if !name.is_foreign {
            let path = folder.join(&name.path);
            match self.open_below_roots(named_by, role, &wanted, &path) {
                // An absolute name of another host: the file may have moved together with this one.
                Err(ImageError::Missing { .. }) if name.path.is_absolute() => {}
                outcome => return outcome.map(|file| (file, None)),
            }
        }
        let missing = || ImageError::Missing { named_by: named_by.to_path_buf(), role, wanted: PathBuf::from(&wanted) };
        let beside = folder.join(name.path.file_name().ok_or_else(missing)?);
        match self.open_below_roots(named_by, role, &wanted, &beside) {
            Ok(file) => {
                let found = beside.display();
                Ok((file, Some(format!("its {role} {wanted} does not exist here; took {found} beside it instead"))))
            }
            Err(ImageError::Missing { .. }) => Err(missing()),
            Err(err) => Err(err),
        }
    }

    /// Opens a regular file below one of the roots. The path is checked after all symlinks are resolved, and opened in a
    /// way that follows none, so nobody can put one in between.
    fn open_below_roots(
        &self,
        named_by: &Path,
        role: &'static str,
        wanted: &str,
        path: &Path,
    ) -> Result<ImageFile, ImageError> {
        let forbidden = |reason: String| ImageError::Forbidden {
            named_by: named_by.to_path_buf(),
            role,
            wanted: wanted.to_string(),
            reason,
        };
        let missing = || ImageError::Missing { named_by: named_by.to_path_buf(), role, wanted: path.to_path_buf() };
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(missing());
            }
            Err(source) => return Err(ImageError::Io { file: path.to_path_buf(), source }),
        };
        let Some((root, below)) = self.roots.iter().find_map(|root| Some((root, real.strip_prefix(root).ok()?))) else {
            return Err(forbidden(format!("{} is outside the allowed folders", real.display())));
        };
        // Looked at before it is opened: merely opening a device or a pipe can have effects.
        let kind = std::fs::symlink_metadata(&real).map_err(io_error(&real))?.file_type();
        if !kind.is_file() {
            return Err(forbidden(format!("{} is {}, not a regular file", real.display(), kind_name(kind))));
        }
        let file = open_beneath(root, below).map_err(io_error(path))?;
        if !file.metadata().map_err(io_error(path))?.is_file() {
            return Err(forbidden(format!("{} is no longer a regular file", real.display())));
        }
        self.take(path, file).map_err(io_error(path))
    }
}

/// Opens `below` relative to `root` without following a single symlink.
fn open_beneath(root: &Path, below: &Path) -> io::Result<File> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, below, flags, Mode::empty(), beneath) {
        Ok(fd) => Ok(File::from(fd)),
        // Before Linux 5.6, or filtered by a container: at least the last component is no symlink.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(File::from(rustix::fs::openat(&folder, below, flags | OFlags::NOFOLLOW, Mode::empty())?))
        }
        Err(err) => Err(err.into()),
    }
}

/// A file name as an image has it, turned into a path of this host.
struct FileName {
    path: PathBuf,
    /// It can only mean a file of another host (`C:\vm\x.vmdk`, `\\server\share\x.vmdk`).
    is_foreign: bool,
}

impl FileName {
    /// `Err` names the rule it breaks.
    fn parse(name: &[u8]) -> Result<FileName, &'static str> {
        if name.is_empty() {
            return Err("the name is empty");
        }
        if name.len() > NAME_BYTES_MAX {
            return Err("the name is longer than a path can be");
        }
        if name.contains(&0) {
            return Err("the name contains a NUL byte");
        }
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        if lower.contains("://") || LOCATION_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
            return Err("only files are opened, no URLs and no devices");
        }
        let has_drive = matches!(name, [letter, b':', ..] if letter.is_ascii_alphabetic());
        let is_share = name.starts_with(br"\\");
        let slashes: Vec<u8> = name.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        let path = PathBuf::from(OsStr::from_bytes(&slashes));
        Ok(FileName { path, is_foreign: has_drive || is_share })
    }
}

/// The folder a path lies in; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

fn canonical(path: &Path) -> Result<PathBuf, ImageError> {
    path.canonicalize().map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { file: path.to_path_buf(), source }
}

fn kind_name(kind: std::fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a special file",
    }
}

fn flag_bits(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine's folder `vm` with two files, and a file outside it.
    fn house() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let vm = dir.path().join("vm");
        std::fs::create_dir_all(vm.join("sub")).unwrap();
        for file in ["vm/child.vmdk", "vm/base.vmdk", "vm/sub/deep.vmdk", "secret"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        symlink("../secret", vm.join("leads-out.vmdk")).unwrap();
        symlink("sub/deep.vmdk", vm.join("stays.vmdk")).unwrap();
        symlink("..", vm.join("up")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            vm.join("pipe.vmdk"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        (dir, vm)
    }

    #[test]
    fn names_lead_only_to_regular_files_in_the_roots() {
        let (_dir, vm) = house();
        let policy = OpenPolicy::within(&vm).unwrap();
        #[track_caller]
        fn check(policy: &OpenPolicy, vm: &Path, name: &str, expected: Result<&str, &str>) {
            let outcome = policy.open_named(&vm.join("child.vmdk"), "parent", name.as_bytes());
            match (outcome, expected) {
                (Ok((file, warning)), Ok(said)) => {
                    let warning = warning.unwrap_or_default();
                    assert!(warning.contains(said) && warning.is_empty() == said.is_empty(), "{name}: {warning}");
                    assert_eq!(file.len(), 1);
                }
                (Err(err), Err(said)) => assert!(err.to_string().contains(said), "{name}: {err}"),
                (outcome, _) => panic!("{name}: {:?}", outcome.map(|(file, _)| file.path().to_path_buf())),
            }
        }
        let check = |name, expected| check(&policy, &vm, name, expected);
        check("base.vmdk", Ok(""));
        check("./sub/../base.vmdk", Ok(""));
        check(r"sub\deep.vmdk", Ok(""));
        check("stays.vmdk", Ok(""));
        check("/vmfs/volumes/5f1/vm/base.vmdk", Ok("does not exist here"));
        check(r"C:\vm\base.vmdk", Ok("does not exist here"));
        check(r"\\server\share\base.vmdk", Ok("does not exist here"));
        check("", Err("the name is empty"));
        check("a\0b", Err("NUL"));
        check("gone.vmdk", Err("parent "));
        check("/vmfs/volumes/5f1/vm/gone.vmdk", Err("/vmfs/volumes/5f1/vm/gone.vmdk is missing"));
        check(r"D:\", Err("missing"));
        check("/etc/passwd", Err("outside the allowed folders"));
        check("../secret", Err("outside the allowed folders"));
        check(r"..\secret", Err("outside the allowed folders"));
        check("leads-out.vmdk", Err("outside the allowed folders"));
        check("up/secret", Err("outside the allowed folders"));
        check("/dev/zero", Err("outside the allowed folders"));
        check("pipe.vmdk", Err("a pipe, not a regular file"));
        check("sub", Err("a folder, not a regular file"));
        for url in ["json:{}", "nbd://host/x", "nbd:unix:/s", "http://host/x", "JSON:{}", "ssh://h/x", "rbd:pool/x"] {
            check(url, Err("no URLs"));
        }
    }

    #[test]
    fn further_roots_are_explicit_and_still_hold_only_files() {
        let (dir, vm) = house();
        let policy = OpenPolicy::within(&vm).unwrap().allow(dir.path()).unwrap().allow(Path::new("/dev")).unwrap();
        assert!(policy.open_named(&vm.join("child.vmdk"), "parent", b"../secret").is_ok());
        let err = policy.open_named(&vm.join("child.vmdk"), "extent", b"/dev/zero").err().unwrap();
        assert!(err.to_string().contains("a character device, not a regular file"), "{err}");
    }

    #[test]
    fn the_first_image_follows_who_named_it() {
        let (dir, vm) = house();
        let secret = dir.path().join("secret");
        assert!(OpenPolicy::within(&vm).unwrap().open_top(&vm.join("base.vmdk")).is_ok());
        let err = OpenPolicy::within(&vm).unwrap().open_top(&secret).err().unwrap();
        assert!(matches!(err, ImageError::Forbidden { .. }), "{err}");
        assert!(OpenPolicy::named_by_user(&secret).unwrap().open_top(&secret).is_ok());
        let err = OpenPolicy::named_by_user(Path::new("/dev/zero")).unwrap().open_top(Path::new("/dev/zero"));
        assert!(err.err().unwrap().to_string().contains("a character device as an image is not supported"));
        let pipe = vm.join("pipe.vmdk");
        assert!(OpenPolicy::named_by_user(&pipe).unwrap().open_top(&pipe).is_err());
    }
}
