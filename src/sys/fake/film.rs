//! Every state that a run leads a machine through.

use super::world::World;
use super::{Loss, Machine, RunDir, Turn};

/// The machine after an operation that changed what is written or what is durable.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The operation: `file.write(da0s2:etc/rc)`.
    pub after: String,
    world: World,
}

impl Frame {
    /// Writes that nobody flushed, on all media.
    pub fn pending(&self) -> usize {
        self.world.pending_everywhere()
    }

    /// The machine after the power was gone at this moment and came back.
    #[must_use]
    pub fn lose_power(&self, loss: Loss) -> Machine {
        Machine::with(RunDir::new(), |run_dir| self.world.clone().after(loss, run_dir))
    }
}

impl Machine {
    /// Begins to keep every state, with the present one.
    pub fn film(&self) {
        let mut state = self.lock();
        let first = Frame { after: "the start".to_owned(), world: state.world.clone() };
        state.film = Some(vec![first]);
    }

    /// The states since [`Machine::film`], which ends with it.
    pub fn frames(&self) -> Vec<Frame> {
        self.lock().film.take().unwrap_or_default()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some((after, changes)) = self.filmed.take() else { return };
        let state = &mut *self.state;
        if state.world.changes() == changes {
            return;
        }
        if let Some(film) = &mut state.film {
            film.push(Frame { after, world: state.world.clone() });
        }
    }
}
