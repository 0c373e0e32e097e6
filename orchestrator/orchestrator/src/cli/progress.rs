//! Spinners and bars on stderr, only on a terminal, gone when the work is done.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Ui;

const TICK: Duration = Duration::from_millis(100);

/// A spinner that disappears when dropped.
#[derive(Debug)]
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Says what is being done.
    #[must_use]
    pub fn start(ui: &Ui, what: impl Into<String>) -> Self {
        if !ui.progress {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(what.into());
        let ticks = if ui.err.unicode { "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ " } else { "|/-\\ " };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:>4}") {
            bar.set_style(style.tick_chars(ticks));
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Says something else.
    pub fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// Runs `write` with the spinner out of the way.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar over `total` bytes; hidden when nobody looks.
#[must_use]
pub fn bytes_bar(ui: &Ui, what: &str, total: u64) -> ProgressBar {
    if !ui.progress {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars(if ui.err.unicode { "━╸ " } else { "=> " }));
    }
    bar
}
