//! The manual pages and completions of the source tree are those that the command line's definitions make.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::Stage;

const ANEW: &str = "make them anew: rm -r man completions; cargo run -- generate .";

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}; {ANEW}", folder.display()));
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn manual_pages_and_completions_are_up_to_date() {
    let stage = Stage::empty();
    stage.run(&["generate", "."]).ok();
    for folder in ["man", "completions"] {
        let kept = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let made = files(&stage.path(folder));
        let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&kept), names(&made), "{folder}: {ANEW}");
        for (name, text) in &made {
            assert!(kept[name] == *text, "{folder}/{name} differs; {ANEW}");
        }
    }
}

#[test]
fn completions_on_stdout_are_those_of_the_source_tree() {
    let kept = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("completions"));
    for (shell, name) in [("bash", "abbild.bash"), ("zsh", "_abbild"), ("fish", "abbild.fish")] {
        assert_eq!(Stage::empty().run(&["completions", shell]).ok().stdout, kept[name], "{shell}");
    }
}
