//! What tests of many cases share.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a test of many cases found wrong, told all at once: one defect shows in many cases.
#[derive(Default)]
pub struct Findings(BTreeMap<String, Vec<String>>);

impl Findings {
    /// Something is wrong in this case.
    pub fn add(&mut self, what: impl Into<String>, case: &(impl ToString + ?Sized)) {
        self.0.entry(what.into()).or_default().push(case.to_string());
    }

    /// Something is wrong where it is not right.
    pub fn check(&mut self, right: bool, what: &str, case: &(impl ToString + ?Sized)) {
        if !right {
            self.add(what, case);
        }
    }

    /// Nothing may have been.
    #[track_caller]
    pub fn none(self) {
        let mut text = String::new();
        for (what, cases) in self.0.iter().take(10) {
            let what: String = what.chars().take(400).collect();
            let first = cases[..cases.len().min(5)].join("\n    ");
            let _ = write!(text, "\n{} times: {what}\n    {first}", cases.len());
        }
        assert!(text.is_empty(), "{} kinds of findings:{text}", self.0.len());
    }
}
