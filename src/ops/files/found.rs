//! From a place to a node: which volume is meant, and where the path leads on it.

use std::borrow::Cow;
use std::sync::Arc;

use super::FilesError;
use super::owners::Owners;
use super::place::{Inside, Place, SourceName};
use super::source::Source;
use crate::guest::detect::Role;
use crate::guest::path::{LastLink, PathError, resolve};
use crate::guest::tree::{FileSystem, NodeId};
use crate::guest::view::Missing;

/// A node that a place leads to.
pub struct Found {
    /// The place in its plain form, to which paths below are added: `web1@latest:/etc`, `web1@latest:` for a root.
    pub place: Vec<u8>,
    /// The filesystem, or the guest's view of several.
    pub filesystem: Arc<dyn FileSystem>,
    /// The node.
    pub node: NodeId,
    /// Volumes that the guest mounts at or below this node and that are not shown.
    pub missing: Vec<Missing>,
}

/// The tree that a place is in.
struct Tree<'p> {
    filesystem: Arc<dyn FileSystem>,
    /// The path there.
    path: Cow<'p, [u8]>,
    missing: Vec<Missing>,
}

impl Found {
    /// The place of what lies at `path` below (empty, or beginning with `/`).
    pub fn place_of(&self, path: &[u8]) -> Vec<u8> {
        let is_root = path.is_empty() && self.place.ends_with(b":");
        let end: &[u8] = if is_root { b"/" } else { b"" };
        [&self.place, path, end].concat()
    }

    /// The same for messages.
    pub fn shown(&self, path: &[u8]) -> String {
        String::from_utf8_lossy(&self.place_of(path)).into_owned()
    }
}

impl Place {
    /// In its plain form: without slashes at the end.
    pub fn plain(&self) -> Vec<u8> {
        let source = match &self.source {
            SourceName::Backup(name) => name.as_bytes(),
            SourceName::File(file) => file.as_os_str().as_encoded_bytes(),
        };
        [source, b":", &self.inside.plain()].concat()
    }
}

impl Source {
    /// The node that `place` leads to; a link at its very end is followed or kept.
    ///
    /// # Errors
    /// [`FilesError::WhichVolume`] if a path could be on any of several volumes; else why it leads nowhere.
    pub fn find(&self, place: &Place, last: LastLink) -> Result<Found, FilesError> {
        let Tree { filesystem, path, missing } = self.tree(&place.inside)?;
        let shown = || String::from_utf8_lossy(&place.plain()).into_owned();
        let node = resolve(filesystem.as_ref(), &path, last).map_err(|source| FilesError::path(shown(), source))?;
        Ok(Found { place: place.plain(), filesystem, node, missing })
    }

    /// As [`Source::find`]; `None` if the path leads to nothing.
    ///
    /// # Errors
    /// As [`Source::find`], for any other reason.
    pub fn find_if_there(&self, place: &Place, last: LastLink) -> Result<Option<Found>, FilesError> {
        match self.find(place, last) {
            Ok(found) => Ok(Some(found)),
            Err(FilesError::Path { source, .. }) if leads_to_nothing(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names for the owners of files there: the volume's own, else those of the guest's system.
    pub fn owners(&self, found: &Found) -> Owners {
        Owners::of(found.filesystem.as_ref()).or_else(|| Owners::of(self.guest.view()?.as_ref())).unwrap_or_default()
    }

    /// The tree that a place is in, the path there, and what the tree does not show.
    fn tree<'p>(&self, inside: &'p Inside) -> Result<Tree<'p>, FilesError> {
        match inside {
            Inside::View(path) => {
                if let Some(view) = self.guest.view() {
                    let mut missing = view.missing().to_vec();
                    missing.retain(|missing| is_below(missing.folder.as_bytes(), path));
                    return Ok(Tree { filesystem: view, path: path.into(), missing });
                }
                let names: Vec<&str> = self.guest.names().collect();
                match names.as_slice() {
                    [] => Err(self.no_files()),
                    [only] => Ok(Tree { filesystem: self.volume(only)?, path: path.into(), missing: Vec::new() }),
                    _ => {
                        let source_name = self.name.clone();
                        Err(FilesError::WhichVolume { source_name, volumes: self.volumes_with_files() })
                    }
                }
            }
            Inside::Volume(text) => {
                let (name, path) = self.split(text)?;
                Ok(Tree { filesystem: self.volume(&name)?, path: path.into(), missing: Vec::new() })
            }
            Inside::Drive(letter, path) => {
                let drive = self.guest.drives().drives.iter().find(|drive| drive.letter == *letter);
                let Some(drive) = drive else {
                    let (source_name, volumes) = (self.name.clone(), self.volumes_with_files());
                    return Err(FilesError::Drive { source_name, letter: *letter, volumes });
                };
                let filesystem = self.volume(&drive.volume)?;
                // In the view of all drives, if there is one: there links to other drives lead somewhere.
                Ok(match self.guest.view().filter(|view| view.has_drives()) {
                    Some(view) => {
                        let path = [format!("/{letter}:").as_bytes(), path].concat();
                        Tree { filesystem: view, path: path.into(), missing: Vec::new() }
                    }
                    None => Tree { filesystem, path: path.into(), missing: Vec::new() },
                })
            }
        }
    }

    /// The volume's name and the path behind it: the longest name that fits.
    fn split<'p>(&self, text: &'p [u8]) -> Result<(String, &'p [u8]), FilesError> {
        let names = self.guest.volumes().volumes.iter().map(|volume| volume.name.as_str());
        let rest = |name: &str| {
            let rest = text.strip_prefix(name.as_bytes())?;
            (rest.is_empty() || rest[0] == b'/').then_some(rest)
        };
        let longest = names.filter_map(|name| Some((name.to_owned(), rest(name)?))).max_by_key(|(name, _)| name.len());
        longest.ok_or_else(|| {
            let unavailable = &self.guest.volumes().unavailable;
            if let Some(volume) = unavailable.iter().find(|volume| rest(&volume.name).is_some()) {
                let reason = format!("{}: {}", volume.name, volume.reason);
                return FilesError::Volume { source_name: self.name.clone(), reason };
            }
            FilesError::NoVolume {
                source_name: self.name.clone(),
                wanted: String::from_utf8_lossy(text).into_owned(),
                volumes: self.volumes_with_files(),
            }
        })
    }

    fn volume(&self, name: &str) -> Result<Arc<dyn FileSystem>, FilesError> {
        let opened = self.guest.filesystem(name).expect("the name was taken from the list");
        opened.map_err(|source| FilesError::FileSystem {
            source_name: self.name.clone(),
            volume: name.to_owned(),
            source,
        })
    }

    fn volumes_with_files(&self) -> Vec<String> {
        self.guest.names().map(str::to_owned).collect()
    }

    fn no_files(&self) -> FilesError {
        let volumes = self.guest.volumes();
        let encrypted = volumes.volumes.iter().filter(|volume| volume.content.kind.role() == Role::Encrypted);
        let encrypted =
            encrypted.map(|volume| format!("{} is {}, encrypted by the guest", volume.name, volume.content.kind));
        let unavailable = volumes.unavailable.iter().map(|volume| format!("{}: {}", volume.name, volume.reason));
        let reasons = encrypted.chain(unavailable).chain(volumes.faults.iter().cloned()).collect();
        FilesError::NoFiles { source_name: self.name.clone(), reasons }
    }
}

fn leads_to_nothing(error: &PathError) -> bool {
    matches!(error, PathError::NotFound { .. } | PathError::NoDirectory { .. })
}

/// Whether `folder` is `path` or below it, by their names.
fn is_below(folder: &[u8], path: &[u8]) -> bool {
    let steps = |path| <[u8]>::split(path, |byte| *byte == b'/').filter(|step| !step.is_empty() && *step != b".");
    let mut folder = steps(folder);
    steps(path).all(|step| folder.next() == Some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_below_a_path() {
        for (folder, path, below) in [
            ("/home", "", true),
            ("/home", "/", true),
            ("/home", "/home/", true),
            ("/srv/www", "//srv/.", true),
            ("/home", "/home/anna", false),
            ("/homes", "/home", false),
            ("/", "/etc", false),
        ] {
            assert_eq!(is_below(folder.as_bytes(), path.as_bytes()), below, "{folder} {path}");
        }
    }
}
