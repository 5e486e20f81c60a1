//! Prune, as long work that tells how far it is and can be stopped.

use super::OpsError;
use super::event::{Control, Event};
use crate::repo::gc::prune::{self, Follow};
use crate::repo::{RepoError, Repository};

pub use crate::repo::gc::prune::PruneOptions;
pub use crate::repo::gc::report::{Amount, PruneReport};

/// Gives back the space that nothing needs.
///
/// # Errors
/// [`OpsError`]; the next prune goes on from there.
pub fn prune(repository: &Repository, options: &PruneOptions, control: Control<'_>) -> Result<PruneReport, OpsError> {
    let follow = Follow {
        step: &|what| control.tell(Event::Step(what)),
        repacking: &|bytes| control.tell(Event::Begin { what: "packs", bytes }),
        repacked: &|bytes| control.tell(Event::Done(bytes)),
        stop: &|| control.interrupted(),
    };
    let report = prune::prune(repository, options, &follow).map_err(|error| match error {
        RepoError::Interrupted => OpsError::Interrupted,
        error => error.into(),
    })?;
    report.warnings.iter().for_each(|warning| control.tell(Event::Warning(warning)));
    Ok(report)
}
