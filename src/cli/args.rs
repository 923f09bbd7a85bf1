//! Arguments: only their shapes and their help.

use std::num::NonZero;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::plan::size::{Size, TOO_LARGE};
use crate::slot::Choice;

/// Keep the other root of a dual-root appliance bootable.
#[derive(Clone, Debug, Parser)]
#[command(name = "dualroot", version, max_term_width = 80, after_help = EXIT_CODES)]
#[command(next_help_heading = "Options of every command")]
#[allow(clippy::struct_excessive_bools)] // each is an option of its own
pub struct Args {
    /// Take ROOT (a mount point) for /
    #[arg(short, long, global = true, value_name = "ROOT", default_value = "/")]
    pub root: PathBuf,
    /// Configuration file [default: /etc/dualroot.conf]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The medium of the alternate slot: a device, or one of internal, external,
    /// usb, usb0, usb1, compact-flash, removable-compact-flash, hard-disk
    #[arg(long, global = true, value_name = "MEDIUM")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub media: Option<String>,
    /// Say more; twice for all
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print the result as one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// Head the text with NAME, as Junos does for the members of a chassis
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "all_members")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub member: Option<String>,
    /// The same for all members there are: this one, localre
    #[arg(long, global = true)]
    pub all_members: bool,
    /// Leave the processor and, on Linux, the media to others
    #[arg(long, global = true)]
    pub nice: bool,
    /// Read, and write, no more than this in a second: MB, or with k, m, g, t
    #[arg(long, global = true, value_name = "SIZE", value_parser = rate)]
    pub limit: Option<NonZero<u64>>,
    /// How progress is shown on stderr
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// Which member of a chassis this is to be.
    pub fn member(&self) -> Option<&str> {
        if self.all_members { Some("localre") } else { self.member.as_deref() }
    }
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 problems found, 4 busy or locked,\n\
5 content differs from the manifest, 6 refused before writing, 128+n signal n.";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, plain lines elsewhere
    Auto,
    /// One line, drawn again and again
    Bar,
    /// A line every few seconds
    Plain,
    /// A JSON object per line
    Json,
    /// Nothing
    None,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Copy / and /config to the alternate slot, read the copy back, record it
    Snapshot(Snapshot),
    /// Show both slots: role, date, packages, state
    Show(Show),
    /// Read a slot again and compare it with its manifest
    Verify(Verify),
    /// Show the medium: active and backup, partitions, sizes, mount points
    Partitions,
    /// Say what is wrong with tables, boot, slots and the copy
    Check,
    /// Clear stale mounts of the alternate slot, and what killed runs left
    Clean(Clean),
    /// Let a slot start next: for good, or once, on trial
    Boot(Boot),
    /// Keep the running slot, where its health hooks are content; ends a trial
    Confirm,
    /// End a trial: the slot before it starts again
    Reject(Reject),
    /// Show what was done, when and with what result
    Log,
    /// At boot: tell how the system came up, and repair the other slot after an
    /// unplanned fall-back
    AutoSnapshot(AutoSnapshot),
    /// Keep the partition tables of both slots' media, and repair them
    #[command(subcommand)]
    Table(Table),
    /// Keep the list of what the box left the factory with
    #[command(subcommand)]
    Factory(Factory),
}

impl Command {
    /// The verb as it is called.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::Show(_) => "show",
            Self::Verify(_) => "verify",
            Self::Partitions => "partitions",
            Self::Check => "check",
            Self::Clean(_) => "clean",
            Self::Boot(_) => "boot",
            Self::Confirm => "confirm",
            Self::Reject(_) => "reject",
            Self::Log => "log",
            Self::AutoSnapshot(_) => "auto-snapshot",
            Self::Table(Table::Save) => "table save",
            Self::Table(Table::Check(_)) => "table check",
            Self::Table(Table::Restore(_)) => "table restore",
            Self::Factory(Factory::Save) => "factory save",
        }
    }

    /// What there is to say where it was done and its result could not be printed.
    pub fn done(&self) -> &'static str {
        match self {
            Self::Snapshot(Snapshot { dry_run: false, .. }) => {
                "the snapshot was made and is valid: dualroot show tells of it"
            }
            Self::Snapshot(_)
            | Self::Show(_)
            | Self::Verify(_)
            | Self::Partitions
            | Self::Check
            | Self::Log
            | Self::AutoSnapshot(AutoSnapshot { status: true, .. })
            | Self::Table(Table::Check(_) | Table::Restore(Restore { dry_run: true, .. })) => {
                "nothing was to be changed, and nothing was"
            }
            Self::Clean(_)
            | Self::Boot(_)
            | Self::Confirm
            | Self::Reject(_)
            | Self::AutoSnapshot(_)
            | Self::Table(_)
            | Self::Factory(_) => "what was to be done is done",
        }
    }
}

/// Options of `auto-snapshot`.
#[derive(Clone, Debug, ClapArgs)]
#[group(multiple = false)]
#[allow(clippy::struct_excessive_bools)] // one of them at most
pub struct AutoSnapshot {
    /// Only tell what is configured and where it stands
    #[arg(long)]
    pub status: bool,
    /// Let it repair
    #[arg(long)]
    pub enable: bool,
    /// Let it repair nothing
    #[arg(long)]
    pub disable: bool,
    /// Only tell how the system came up, and show or clear the notice
    #[arg(long)]
    pub assess: bool,
}

/// What to do with the list of the factory's files.
#[derive(Clone, Debug, Subcommand)]
pub enum Factory {
    /// Make it: it has what the alternate slot's valid copy has now
    Save,
}

/// What to do with partition tables.
#[derive(Clone, Debug, Subcommand)]
pub enum Table {
    /// Keep tables, labels and boot blocks on /config and on the copy
    Save,
    /// Compare the media with what was kept
    Check(Kept),
    /// Write back what differs, where no partition in use would move
    Restore(Restore),
}

/// Options of `table check`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Kept {
    /// Only this medium, by its name now: da0
    #[arg(long, value_name = "NAME")]
    pub medium: Option<String>,
    /// Take this file instead of the newest that is found
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Options of `table restore`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Restore {
    /// What to take and where to write it
    #[command(flatten)]
    pub kept: Kept,
    /// Print what would be written, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Options of `snapshot`.
#[derive(Clone, Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub struct Snapshot {
    /// Which slot gets the copy
    #[arg(long, value_enum, default_value_t = Alternate::Alternate)]
    pub slice: Alternate,
    /// How to copy
    #[arg(long, value_enum, default_value_t = Method::Auto)]
    pub method: Method,
    /// Put a new partition table on the other medium first: all on it is lost.
    /// The sizes and --scheme imply it
    #[arg(long)]
    pub partition: bool,
    /// The new table: mbr or gpt [default: like the running medium's]
    #[arg(long, value_enum)]
    pub scheme: Option<Scheme>,
    /// Size of each root: MB, or with k, m, g, t, % [default: a third of the rest]
    #[arg(long, value_name = "SIZE")]
    pub root_size: Option<Size>,
    /// Size of each config [default: 10%]
    #[arg(long, value_name = "SIZE")]
    pub config_size: Option<Size>,
    /// Size of spare storage [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub data_size: Option<Size>,
    /// Size of swap [default: a third of a medium over 128 MB]
    #[arg(long, value_name = "SIZE")]
    pub swap_size: Option<Size>,
    /// Copy only what the box left the factory with (/etc/dualroot/factory.mtree),
    /// and the rescue configuration
    #[arg(long)]
    pub factory: bool,
    /// Make a medium that can take the running one's place: with its names in fstab
    /// and its labels. Only a removable one; implies --partition
    #[arg(long)]
    pub as_primary: bool,
    /// Make a new file system, instead of bringing an older copy up to date
    #[arg(long)]
    pub fresh: bool,
    /// How much of an older copy and its source is read: all, or what was touched
    /// since it was made
    #[arg(long, value_enum, default_value_t = Reading::Full)]
    pub verify: Reading,
    /// Clear busy and foreign mounts by force; copy over a slot that is newer, or
    /// was meant to run
    #[arg(long)]
    pub force: bool,
    /// Copy only /
    #[arg(long, conflicts_with = "config_partition")]
    pub root_partition: bool,
    /// Copy only /config
    #[arg(long)]
    pub config_partition: bool,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Kinds of partition tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// Four slices, with BSD labels on FreeBSD
    Mbr,
    /// GUID partition table
    Gpt,
}

/// The only slot that can get a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Alternate {
    /// The one that is not running
    Alternate,
}

/// Ways to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The same as tree
    Auto,
    /// File by file
    Tree,
    /// By the blocks in use of a file system that nobody writes to, or of a snapshot of it
    Block,
}

/// How much of an older copy is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    /// Everything
    Full,
    /// What changed since it was made, as its time tells
    Changed,
}

/// Options of `show`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Show {
    /// Only this slot: 1, 2 or alternate
    #[arg(long, value_parser = slot)]
    pub slice: Option<Choice>,
}

/// Options of `verify`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Verify {
    /// Which slot: 1, 2 or alternate
    #[arg(long, value_parser = slot, default_value = "alternate")]
    pub slice: Choice,
}

/// Options of `boot`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Boot {
    /// Which slot: 1, 2 or alternate
    #[arg(value_parser = slot)]
    pub slot: Choice,
    /// Only the next time; it comes back by itself unless it is confirmed
    #[arg(long)]
    pub once: bool,
    /// Start again now
    #[arg(long)]
    pub reboot: bool,
}

/// Options of `reject`.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Reject {
    /// Start again now
    #[arg(long)]
    pub reboot: bool,
}

/// Options of `clean`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Clean {
    /// Clear busy and foreign mounts too
    #[arg(long)]
    pub force: bool,
}

fn rate(text: &str) -> Result<NonZero<u64>, String> {
    match text.parse() {
        Ok(Size::Bytes(bytes)) => {
            NonZero::new(bytes).ok_or_else(|| "nothing would pass".to_owned())
        }
        Err(why) if why == TOO_LARGE => Err(why),
        // A share of what?
        Ok(Size::Percent(_)) | Err(_) => {
            Err("a number of MB, or with k, m, g or t behind it".to_owned())
        }
    }
}

fn slot(text: &str) -> Result<Choice, String> {
    match text {
        "1" => Ok(Choice::Number(1)),
        "2" => Ok(Choice::Number(2)),
        "alternate" => Ok(Choice::Alternate),
        _ => Err("1, 2 or alternate".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_fits_80_columns() {
        let mut command = Args::command();
        command.build();
        let mut all = vec![command.clone()];
        all.extend(command.get_subcommands().cloned());
        for mut each in all {
            let help = each.render_long_help().to_string();
            assert!(help.lines().all(|l| l.len() <= 80), "{help}");
        }
    }
}
