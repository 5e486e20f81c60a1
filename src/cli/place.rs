//! Which repository is meant, and how it is opened or made.
//!
//! The default repository, and only that one, comes into being by itself, with a key file beside the settings. A folder
//! that somebody named is never made into a repository unasked: it may be a mount that is not there today.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::Context;
use super::failure::Usage;
use super::secret::{self, SecretSource};
use crate::repo::index::{IndexPlace, Opened};
use crate::repo::keys::{KdfCost, Secret};
use crate::repo::store::{DirectoryStore, ObjectStore, fs::RealFs};
use crate::repo::{RepoError, Repository, config, text};

/// Wrong passphrases a person may type.
const TRIES: usize = 3;

/// The folder of a repository.
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// The key file of the default repository; `None` for any other.
    pub default_key: Option<PathBuf>,
}

impl Place {
    /// The repository that was named, else the default one.
    pub fn of(context: &Context<'_>) -> anyhow::Result<Place> {
        let Some(named) = context.global.repo() else {
            return Ok(Place { folder: default_folder()?, default_key: Some(default_key()?) });
        };
        Place::named(named)
    }

    /// The repository in a folder that somebody named.
    pub fn named(named: &Path) -> anyhow::Result<Place> {
        if named.to_str().is_some_and(|name| name.contains("://")) {
            let message = format!("{}: repositories are folders; other places are not supported", named.display());
            return Err(Usage::new(message, "mount it, and name the folder").into());
        }
        Ok(Place { folder: named.to_owned(), default_key: None })
    }

    /// Whether there is a repository.
    pub fn exists(&self) -> bool {
        let name = config::object_name();
        [text::copy_of(&name), name].iter().any(|name| self.folder.join(name.as_str()).exists())
    }

    /// Its folder, for messages.
    pub fn shown(&self) -> String {
        self.folder.display().to_string()
    }

    /// Where its key comes from.
    pub fn key(&self, context: &Context<'_>) -> SecretSource {
        match (SecretSource::choose(context.global.key_file(), &secret::VARIABLES), &self.default_key) {
            (SecretSource::Ask, Some(key)) if key.exists() || !self.exists() => SecretSource::KeyFile(key.clone()),
            (source, _) => source,
        }
    }

    /// Its store.
    ///
    /// # Errors
    /// [`RepoError::NoRepository`] before anything else is asked or tried.
    pub fn store(&self) -> anyhow::Result<Arc<DirectoryStore<RealFs>>> {
        if !self.folder.is_dir() {
            return Err(RepoError::NoRepository { place: self.shown() }.into());
        }
        let store = DirectoryStore::open(&self.folder).map_err(RepoError::from)?;
        config::Config::load(&store)?;
        Ok(Arc::new(store))
    }

    /// Opens it; the secret that did so comes with it.
    pub fn open(&self, context: &Context<'_>) -> anyhow::Result<(Arc<Repository>, Secret)> {
        self.open_with(context, &self.key(context), index_place(context, false)?)
    }

    /// Opens it as the second repository of a run. If `source` would have to ask, `other`, which opened the first one, is
    /// tried before.
    pub fn open_beside(
        &self,
        context: &Context<'_>,
        source: &SecretSource,
        other: &Secret,
    ) -> anyhow::Result<Arc<Repository>> {
        let place = index_place(context, true)?;
        if matches!(source, SecretSource::Ask) {
            match Repository::open(self.store()?, other, &place) {
                Ok(repository) => return Ok(Arc::new(repository)),
                Err(error @ RepoError::WrongKey { .. }) if !context.terminal.can_ask() => {
                    let hint = "name the key of the second one: --to-key-file or --to-password-file";
                    return Err(
                        Usage::new(format!("the key of the first repository does not open it: {error}"), hint).into()
                    );
                }
                Err(RepoError::WrongKey { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.open_with(context, source, place)?.0)
    }

    fn open_with(
        &self,
        context: &Context<'_>,
        source: &SecretSource,
        place: impl Fn(crate::repo::ids::RepoId) -> IndexPlace,
    ) -> anyhow::Result<(Arc<Repository>, Secret)> {
        let store = self.store()?;
        let mut tries = if matches!(source, SecretSource::Ask) { TRIES } else { 1 };
        loop {
            let secret = source.secret(context.terminal, &self.shown())?;
            let store: Arc<dyn ObjectStore> = Arc::<DirectoryStore<RealFs>>::clone(&store);
            match Repository::open(store, &secret, &place) {
                Ok(repository) => {
                    match repository.index_opened() {
                        Opened::Found | Opened::Created => {}
                        Opened::Discarded(why) => context
                            .terminal
                            .detail(&format!("the index cache could not be used and is made anew: {why}")),
                        Opened::InMemory => context
                            .terminal
                            .warn("there is no room for the index cache: it is in memory, for this run alone"),
                    }
                    return Ok((Arc::new(repository), secret));
                }
                Err(RepoError::WrongKey { .. }) if tries > 1 => {
                    tries -= 1;
                    context.terminal.warn("this passphrase does not open it; try again");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes it, and says what has to be kept.
    pub fn create(&self, context: &Context<'_>, label: &str) -> anyhow::Result<Arc<Repository>> {
        if self.exists() {
            let found = config::object_name().to_string();
            return Err(RepoError::NotEmpty { place: self.shown(), found }.into());
        }
        let secret = self.key(context).new_secret(context.terminal, &self.shown())?;
        let store = DirectoryStore::create(&self.folder).map_err(RepoError::from)?;
        let place = index_place(context, false)?;
        let repository = Repository::create(Arc::new(store), &secret, label, KdfCost::Calibrated, &place)?;
        context.terminal.say(&format!("created the repository {}", self.shown()));
        if let Secret::KeyFile(key) = &secret {
            context.terminal.say(&format!(
                "only the key file {} opens it: without it all backups are lost\n\
                 save it now, on paper or elsewhere: abbild key export",
                key.origin()
            ));
        } else {
            context.terminal.say("only its passphrase opens it: without it all backups are lost");
        }
        Ok(Arc::new(repository))
    }
}

/// Opens the repository that was named, else the default one.
pub fn open(context: &Context<'_>) -> anyhow::Result<Arc<Repository>> {
    Ok(Place::of(context)?.open(context)?.0)
}

/// Opens the repository that was named; the default one is made if it is not there yet.
pub fn open_or_create_default(context: &Context<'_>) -> anyhow::Result<Arc<Repository>> {
    let place = Place::of(context)?;
    if let Some(key) = place.default_key.as_ref().filter(|_| !place.exists()) {
        if !key.exists() {
            return place.create(context, "");
        }
        // Where there is a key there was a repository: making another would hide that a disk is not mounted.
        let message =
            format!("the key file {} is there, but not its repository; is a disk not mounted?", key.display());
        return Err(anyhow::Error::new(RepoError::NoRepository { place: place.shown() }).context(message));
    }
    Ok(place.open(context)?.0)
}

/// Where the index cache of a repository goes. A folder that was named is the first repository's; that of a second one lies
/// in it.
fn index_place(
    context: &Context<'_>,
    second: bool,
) -> anyhow::Result<impl Fn(crate::repo::ids::RepoId) -> IndexPlace + use<>> {
    let named = context.global.cache_dir.clone();
    let caches = match &named {
        Some(_) => PathBuf::new(),
        None => xdg("XDG_CACHE_HOME", ".cache")?,
    };
    Ok(move |id: crate::repo::ids::RepoId| match &named {
        Some(folder) if second => IndexPlace::Folder(folder.join(id.to_string())),
        Some(folder) => IndexPlace::Folder(folder.clone()),
        None => IndexPlace::Folder(caches.join(id.to_string())),
    })
}

fn default_folder() -> anyhow::Result<PathBuf> {
    Ok(xdg("XDG_DATA_HOME", ".local/share")?.join("repository"))
}

fn default_key() -> anyhow::Result<PathBuf> {
    Ok(xdg("XDG_CONFIG_HOME", ".config")?.join("key"))
}

/// Where logs go.
pub fn state_folder() -> anyhow::Result<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// Our folder below one of the XDG base directories.
fn xdg(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    // The specification: a relative path there is to be ignored.
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match set {
        Some(base) => base,
        None => std::env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(below_home))
            .with_context(|| format!("neither {variable} nor HOME says where to look"))?,
    };
    Ok(base.join(Path::new("abbild")))
}
