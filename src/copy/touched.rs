//! Which objects of a copy a run has made or changed, or may find to be changed, told by their numbers
//! in the manifest: one bit each, so that a tree of any size costs little.

/// The objects that were touched, and the directories that they are in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    words: Vec<u64>,
}

impl Touched {
    /// Marks the object that is the `number`-th of the manifest, from 0 on.
    pub fn mark(&mut self, number: u64) {
        let (word, bit) = place(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Whether it is marked.
    pub fn has(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn place(number: u64) -> (usize, u64) {
    (
        usize::try_from(number / 64).expect("objects are counted, each in memory once"),
        1 << (number % 64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_marked_is() {
        let mut touched = Touched::default();
        let marked = [0, 5, 63, 64, 1000];
        for number in marked {
            touched.mark(number);
        }
        for number in 0..2000 {
            assert_eq!(touched.has(number), marked.contains(&number), "{number}");
        }
    }
}
