//! The notice of a fall-back in motd(5), in Junos's words. Pure.

/// Characters in a line, the frame included.
const WIDTH: usize = 71;
/// What is left of them inside the frame.
const INSIDE: usize = WIDTH - 8;
/// What tells the notice from other frames.
const TITLE: &str = "WARNING: THIS DEVICE HAS BOOTED FROM THE BACKUP";

/// The notice for `product`, with `more` paragraphs behind Junos's own.
pub fn text(product: &str, more: &[String]) -> String {
    let own = [
        format!("{TITLE} {} IMAGE", product.to_uppercase()),
        format!(
            "It is possible that the primary copy of {product} failed to boot up properly, and so \
             this device has booted from the backup copy."
        ),
        format!(
            "Please re-install {product} to recover the primary copy in case it has been \
             corrupted and if auto-snapshot feature is not enabled."
        ),
    ];
    let frame = "*".repeat(WIDTH);
    let row = |text: &str| format!("**  {text:<INSIDE$}  **\n");
    let mut notice = format!("{frame}\n{}", row(""));
    for paragraph in own.iter().chain(more) {
        for line in wrap(paragraph) {
            notice += &row(&line);
        }
        notice += &row("");
    }
    notice + &frame + "\n"
}

/// Lines of whole words; a word that is longer than a line has one of its own.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= INSIDE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `motd` with this notice at its beginning, or without any; every other byte stays.
pub fn put(motd: &[u8], notice: Option<&str>) -> Vec<u8> {
    let mut text = notice.unwrap_or_default().as_bytes().to_vec();
    match find(motd) {
        Some((start, end)) => {
            text.extend_from_slice(&motd[..start]);
            text.extend_from_slice(&motd[end..]);
        }
        None => text.extend_from_slice(motd),
    }
    text
}

/// Where a notice lies: from its upper frame, which the title follows, to its lower one.
fn find(motd: &[u8]) -> Option<(usize, usize)> {
    let is_frame = |line: &[u8]| line.trim_ascii_end() == "*".repeat(WIDTH).as_bytes();
    let mut at = 0;
    let mut upper = None;
    let mut titled = false;
    for line in motd.split_inclusive(|&b| b == b'\n') {
        match upper {
            Some(start) if titled && is_frame(line) => return Some((start, at + line.len())),
            Some(_) if line.windows(TITLE.len()).any(|w| w == TITLE.as_bytes()) => titled = true,
            Some(_) if titled => {}
            _ if is_frame(line) => upper = Some(at),
            Some(_) if line.starts_with(b"**  ") => {}
            _ => upper = None,
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_are_junos() {
        let expected = "\
***********************************************************************
**                                                                   **
**  WARNING: THIS DEVICE HAS BOOTED FROM THE BACKUP JUNOS IMAGE      **
**                                                                   **
**  It is possible that the primary copy of JUNOS failed to boot up  **
**  properly, and so this device has booted from the backup copy.    **
**                                                                   **
**  Please re-install JUNOS to recover the primary copy in case it   **
**  has been corrupted and if auto-snapshot feature is not enabled.  **
**                                                                   **
***********************************************************************
";
        assert_eq!(text("JUNOS", &[]), expected);
        let more = text("JUNOS", &["x".repeat(80)]);
        assert!(more.contains(&"x".repeat(80)), "{more}");
    }

    #[test]
    fn it_comes_once_and_goes_again() {
        let frame = "*".repeat(WIDTH);
        for motd in [
            "",
            "Welcome\n",
            "Welcome",
            &format!("{frame}\n**  hello  **\n{frame}\n"),
            "\u{e9}\n\n",
        ] {
            let once = put(motd.as_bytes(), Some(&text("BOX", &[])));
            assert!(once.ends_with(motd.as_bytes()));
            let other = put(&once, Some(&text("BOX", &["more of it".to_owned()])));
            assert!(String::from_utf8_lossy(&other).contains("more of it"));
            assert_eq!(String::from_utf8_lossy(&other).matches(TITLE).count(), 1);
            assert_eq!(put(&other, None), motd.as_bytes());
            assert_eq!(put(motd.as_bytes(), None), motd.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_not_a_notice_stays(
            before in "([a-z*]{0,72}\n){0,5}",
            behind in "([a-z*]{0,72}\n){0,5}",
        ) {
            let notice = text("BOX", &[]);
            let motd = format!("{before}{notice}{behind}");
            prop_assert_eq!(put(motd.as_bytes(), None), format!("{before}{behind}").into_bytes());
        }
    }
}
