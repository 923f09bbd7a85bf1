//! rc.conf(5), as far as a switch goes. Pure.

/// The files below `/`, of which a later one counts more (`rc_conf_files` of rc.conf(5)).
pub const FILES: [&str; 3] = ["etc/defaults/rc.conf", "etc/rc.conf", "etc/rc.conf.local"];

/// Whether a file switches a variable on, as `checkyesno` of rc.subr(8) has it: its last assignment
/// counts. `None` where there is none.
pub fn is_on(text: &[u8], variable: &str) -> Option<bool> {
    let text = String::from_utf8_lossy(text);
    let assigned = |line: &str| {
        let value = line.trim().strip_prefix(variable)?.strip_prefix('=')?;
        let end = value.find(|c: char| c == '#' || c == ';' || c.is_whitespace());
        let value = value[..end.unwrap_or(value.len())].trim_matches(['"', '\'']);
        Some(["yes", "true", "on", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes)))
    };
    text.lines().filter_map(assigned).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_counts() {
        let on = |text: &str| is_on(text.as_bytes(), "fsck_y_enable");
        assert_eq!(on("fsck_y_enable=\"NO\"\t# Set to YES to do fsck -y\n"), Some(false));
        assert_eq!(on("fsck_y_enable=NO\n  fsck_y_enable='yes'; x=1\n"), Some(true));
        assert_eq!(on("fsck_y_enable=YES\nfsck_y_enable=\"\"\n"), Some(false));
        assert_eq!(on("#fsck_y_enable=YES\nfsck_y_enable_x=YES\nmy_fsck_y_enable=YES\n"), None);
        assert_eq!(on("fsck_y_enable=1"), Some(true));
    }
}
