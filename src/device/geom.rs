//! GEOM's `kern.geom.confxml` (geom(4)) as a graph of providers.
//!
//! The text is one `mesh` of classes; a class holds geoms; a geom holds providers (what it offers,
//! a node in `/dev`) and consumers (what it takes, by reference to the provider below). Every
//! provider of a geom lies on all providers that the geom consumes.
//!
//! What withers is left out, and so is what lies on nothing else: its storage is gone or going,
//! and a mount of it is a mount of a vanished device.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::{Class, Devices, Id, Lower, Provider};
use crate::error::{Error, Kind, Result};

/// More layers than anybody stacks; a graph that is deeper is taken for malformed.
const DEPTH_MAX: usize = 32;

/// How often a provider is open, as GEOM counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opens {
    /// For reading.
    pub readers: u32,
    /// For writing.
    pub writers: u32,
    /// With nobody else writing: mounted read-write, part of a mirror, under an open partition.
    pub exclusive: u32,
}

fn malformed(cause: impl Into<String>) -> Error {
    Error::new(Kind::Failed, "reading kern.geom.confxml", cause)
}

fn document(confxml: &str) -> Result<Document<'_>> {
    // sysctl(3) strings end with a NUL, which is no character of XML.
    let text = confxml.trim_end_matches('\0');
    let document = Document::parse(text).map_err(|e| malformed(e.to_string()))?;
    if !document.root_element().has_tag_name("mesh") {
        return Err(malformed("not a mesh"));
    }
    Ok(document)
}

fn children<'a, 'i>(
    node: Node<'a, 'i>,
    tag: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    node.children().filter(move |n| n.has_tag_name(tag))
}

fn text<'a>(node: Node<'a, '_>, tag: &'static str) -> Option<&'a str> {
    children(node, tag).next().map(|n| n.text().unwrap_or_default().trim())
}

/// A name: the kernel writes every byte above `~` as a character reference of its value, so the
/// characters are bytes of UTF-8 until proven otherwise.
fn name(node: Node<'_, '_>, tag: &'static str) -> Option<String> {
    text(node, tag).map(unescape)
}

fn unescape(text: &str) -> String {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    match bytes.map(String::from_utf8) {
        Some(Ok(name)) => name,
        _ => text.to_owned(),
    }
}

/// A number of bytes or the like; `None` where there is none, an error where it is no number.
fn number(node: Node<'_, '_>, tag: &'static str) -> Result<Option<u64>> {
    let Some(text) = text(node, tag) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| malformed(format!("{tag} is \"{text}\"")))
}

/// A number inside the element `config`, which classes fill as they like.
fn configured(node: Node<'_, '_>, tag: &'static str) -> Result<Option<u64>> {
    children(node, "config").next().map_or(Ok(None), |config| number(config, tag))
}

/// A provider before its references are followed.
struct Entry<'a> {
    provider: Provider,
    geom_class: String,
    offset: Option<u64>,
    below: Vec<&'a str>,
}

/// What a document holds: providers in order, and where each `id` is; `None` for what withers.
#[derive(Default)]
struct Mesh<'a> {
    entries: Vec<Entry<'a>>,
    ids: HashMap<&'a str, Option<usize>>,
}

impl<'a> Mesh<'a> {
    fn read(document: &'a Document<'_>) -> Result<Self> {
        let mut mesh = Self::default();
        for class in children(document.root_element(), "class") {
            let class_name = name(class, "name").ok_or_else(|| malformed("a class has no name"))?;
            for geom in children(class, "geom") {
                mesh.add_geom(geom, &class_name)?;
            }
        }
        Ok(mesh)
    }

    fn add_geom(&mut self, geom: Node<'a, '_>, class: &str) -> Result<()> {
        let withers = text(geom, "wither").is_some();
        let below: Vec<&str> = children(geom, "consumer")
            .filter_map(|c| children(c, "provider").next()?.attribute("ref"))
            .collect();
        for node in children(geom, "provider") {
            let id = node.attribute("id").ok_or_else(|| malformed("a provider has no id"))?;
            let size = number(node, "mediasize")?;
            // A drive without a medium has a provider of no size.
            let gone = withers || text(node, "wither").is_some() || size == Some(0);
            let place = (!gone).then_some(self.entries.len());
            if self.ids.insert(id, place).is_some() {
                return Err(malformed(format!("two providers are {id}")));
            }
            if !gone {
                let entry = Self::entry(geom, node, class, size, &below)?;
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    fn entry(
        geom: Node<'a, '_>,
        node: Node<'a, '_>,
        class: &str,
        size: Option<u64>,
        below: &[&'a str],
    ) -> Result<Entry<'a>> {
        let name = name(node, "name").ok_or_else(|| malformed("a provider has no name"))?;
        let missing = |what| malformed(format!("{name} has no {what}"));
        let sector = number(node, "sectorsize")?.ok_or_else(|| missing("sectorsize"))?;
        let sector = u32::try_from(sector)
            .ok()
            .filter(|&s| s > 0)
            .ok_or_else(|| malformed(format!("{name} has sectors of {sector} bytes")))?;
        let size = size.ok_or_else(|| missing("mediasize"))?;
        let (kind, offset) = match class {
            "PART" => {
                // An entry that is deleted but not committed has no config any more. Where it was
                // is then not known: it covers everything.
                let index = configured(node, "index")?.unwrap_or(0);
                let index = u32::try_from(index)
                    .map_err(|_| malformed(format!("{name} has index {index}")))?;
                (Class::Partition { index }, Self::part_offset(node, sector)?)
            }
            // glabel(8) keeps its metadata in the last sector and the others keep none: byte 0 of
            // a label is byte 0 below it, unless the geom says otherwise.
            "LABEL" => (Class::Alias, Some(configured(node, "offset")?.unwrap_or(0))),
            "MIRROR" => (Class::Mirror, None),
            // gnop(8) -o: the geom tells it, not the provider.
            "NOP" => (
                Class::Other(class.to_owned()),
                Some(configured(geom, "Offset")?.or(configured(node, "offset")?).unwrap_or(0)),
            ),
            _ => (Class::Other(class.to_owned()), None),
        };
        let aliases = children(node, "alias")
            .filter_map(|n| n.text())
            .map(|alias| Path::new("/dev").join(unescape(alias.trim())))
            .collect::<Vec<PathBuf>>();
        let provider = Provider {
            name,
            aliases,
            class: kind,
            size,
            sector,
            number: None,
            lower: Vec::new(),
            // GEOM keeps no such bit: `rotationrate` and `descr` of a stick and of a SATA DOM
            // read alike, and a guess would be worse than none.
            removable: false,
        };
        Ok(Entry { provider, geom_class: class.to_owned(), offset, below: below.to_vec() })
    }

    /// Bytes from the start of the provider below. `start` counts sectors and is relative too, for
    /// every scheme (a BSD label's own absolute offsets are already undone).
    fn part_offset(node: Node<'_, '_>, sector: u32) -> Result<Option<u64>> {
        if let Some(offset) = configured(node, "offset")? {
            return Ok(Some(offset));
        }
        let start = configured(node, "start")?;
        Ok(start.and_then(|s| s.checked_mul(u64::from(sector))))
    }

    /// Follows the references, leaves out what lies only on withering providers.
    fn link(self) -> Result<Devices> {
        let mut lower: Vec<Option<Vec<usize>>> = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let mut found = Vec::new();
            for &id in &entry.below {
                match self.ids.get(id) {
                    Some(Some(place)) if !found.contains(place) => found.push(*place),
                    Some(_) => {}
                    None => {
                        let name = &entry.provider.name;
                        return Err(malformed(format!("{name} lies on the unknown {id}")));
                    }
                }
            }
            lower.push((entry.below.is_empty() || !found.is_empty()).then_some(found));
        }
        drop_baseless(&mut lower);
        // PART, LABEL and MIRROR make nothing of their own: without anything below, their geom is
        // between two events of a vanishing disk, and identity could not be told.
        for (entry, lower) in self.entries.iter().zip(&lower) {
            let made_of_lower = matches!(&*entry.geom_class, "PART" | "LABEL" | "MIRROR");
            if made_of_lower && lower.as_ref().is_some_and(Vec::is_empty) {
                return Err(malformed(format!("{} lies on nothing", entry.provider.name)));
            }
        }
        let mut media = Media { mesh: &self, lower: &lower, known: vec![None; lower.len()] };
        let mut is_medium = Vec::with_capacity(lower.len());
        for place in 0..lower.len() {
            is_medium.push(media.whole(place, 0)?);
        }
        let mut ids: Vec<Option<Id>> = Vec::with_capacity(lower.len());
        let mut kept = 0;
        for l in &lower {
            ids.push(l.as_ref().map(|_| kept));
            kept += usize::from(l.is_some());
        }
        let mut devices = Devices::default();
        for ((entry, lower), whole) in self.entries.into_iter().zip(lower).zip(is_medium) {
            let Some(lower) = lower else { continue };
            let mut provider = entry.provider;
            // With several below, nobody knows here which byte is where.
            let offset = entry.offset.filter(|_| lower.len() == 1);
            provider.lower =
                lower.iter().filter_map(|&l| ids[l]).map(|id| Lower { id, offset }).collect();
            if whole && matches!(provider.class, Class::Other(_)) {
                provider.class = Class::Disk;
            }
            devices.providers.push(provider);
        }
        Ok(devices)
    }
}

/// Takes out (`None`) what has lost everything below it, until nothing changes.
fn drop_baseless(lower: &mut [Option<Vec<usize>>]) {
    loop {
        let gone: Vec<bool> = lower.iter().map(Option::is_none).collect();
        let mut changed = false;
        for slot in lower.iter_mut() {
            let Some(found) = slot else { continue };
            let before = found.len();
            found.retain(|&l| !gone[l]);
            changed |= found.len() < before;
            if found.is_empty() && before > 0 {
                *slot = None;
            }
        }
        if !changed {
            return;
        }
    }
}

/// Decides what is a medium.
///
/// Not only what the DISK and MD classes offer: a gnop or geli provider over a whole disk, a
/// concatenation of disks or a hardware-like RAID volume is the thing that a partition table is
/// written to and read from, with its own size, so it is the medium of the partitions on it, with
/// or without a table yet. `md0.nops1` has the medium `md0.nop`, `md0s1` has `md0`, and that both
/// are the same bytes shows in [`Devices::extents`], which go down to `md0` for both. What has a
/// partition or a mirror below it (`da0s1.eli`) is no medium, and a mirror is never one: its
/// halves are.
struct Media<'m, 'a> {
    mesh: &'m Mesh<'a>,
    lower: &'m [Option<Vec<usize>>],
    known: Vec<Option<bool>>,
}

impl Media<'_, '_> {
    /// Whether there is nothing of the partitioning or mirroring kind at or below `place`.
    fn whole(&mut self, place: usize, depth: usize) -> Result<bool> {
        if let Some(known) = self.known[place] {
            return Ok(known);
        }
        if depth > DEPTH_MAX {
            let name = &self.mesh.entries[place].provider.name;
            return Err(malformed(format!("{name} lies on itself, or on too much")));
        }
        // All of it is visited, so that a loop is found wherever it is.
        let mut whole = !matches!(
            self.mesh.entries[place].provider.class,
            Class::Partition { .. } | Class::Mirror
        );
        let lower = self.lower;
        for &l in lower[place].iter().flatten() {
            whole &= self.whole(l, depth + 1)?;
        }
        self.known[place] = Some(whole);
        Ok(whole)
    }
}

/// Reads the mesh.
pub fn parse(confxml: &str) -> Result<Devices> {
    let mut devices = Mesh::read(&document(confxml)?)?.link()?;
    devices.name_twins();
    Ok(devices)
}

/// How often the provider of this name is open; `None` where there is no such provider.
pub fn opens(confxml: &str, provider: &str) -> Result<Option<Opens>> {
    let document = document(confxml)?;
    let found = document
        .descendants()
        .filter(|n| n.has_tag_name("provider") && n.has_attribute("id"))
        .find(|&n| name(n, "name").as_deref() == Some(provider));
    let Some(node) = found else { return Ok(None) };
    let mode = text(node, "mode").unwrap_or_default();
    read_mode(mode).map(Some).ok_or_else(|| malformed(format!("mode is \"{mode}\"")))
}

/// `r1w0e0`
fn read_mode(mode: &str) -> Option<Opens> {
    let (readers, rest) = mode.strip_prefix('r')?.split_once('w')?;
    let (writers, exclusive) = rest.split_once('e')?;
    Some(Opens {
        readers: readers.parse().ok()?,
        writers: writers.parse().ok()?,
        exclusive: exclusive.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Extent;
    use proptest::prelude::*;

    const MB: u64 = 1 << 20;

    /// A geom with its consumers' references and its providers, in the kernel's layout. Geoms of
    /// one class need not be in one class element.
    fn geom(class: &str, config: &str, consumers: &[&str], providers: &[String]) -> String {
        let mut text = format!(
            "  <class id=\"0xc\">\n    <name>{class}</name>\n    <geom id=\"0xd\">\n      \
             <class ref=\"0xc\"/>\n      <name>g</name>\n      <rank>1</rank>\n"
        );
        if !config.is_empty() {
            text += "      <config>\n\t";
            text += config;
            text += "\n      </config>\n";
        }
        let consumer = |below: &&str| {
            format!(
                "\t<consumer id=\"0xe\">\n\t  <geom ref=\"0xd\"/>\n\t  <provider ref=\"{below}\"/>\n\
                 \t  <mode>r0w0e0</mode>\n\t</consumer>\n"
            )
        };
        text.extend(consumers.iter().map(consumer));
        text + &providers.concat() + "    </geom>\n  </class>\n"
    }

    fn provider(id: &str, name: &str, size: u64, mode: &str, config: &str) -> String {
        format!(
            "\t<provider id=\"{id}\">\n\t  <geom ref=\"0xd\"/>\n\t  <mode>{mode}</mode>\n\
             \t  <name>{name}</name>\n\t  <mediasize>{size}</mediasize>\n\
             \t  <sectorsize>512</sectorsize>\n\t  <stripesize>0</stripesize>\n\
             \t  <stripeoffset>0</stripeoffset>\n\t  <config>\n{config}\t  </config>\n\
             \t</provider>\n"
        )
    }

    fn part(id: &str, name: &str, index: u32, start: u64, size: u64) -> String {
        let config = format!(
            "\t    <start>{}</start>\n\t    <end>{}</end>\n\t    <index>{index}</index>\n\
             \t    <type>freebsd-ufs</type>\n\t    <offset>{start}</offset>\n\
             \t    <length>{size}</length>\n",
            start / 512,
            (start + size) / 512 - 1
        );
        provider(id, name, size, "r1w1e1", &config)
    }

    fn mesh(geoms: &[String]) -> String {
        format!("<mesh>\n{}</mesh>\n\0", geoms.concat())
    }

    /// A card with an MBR and a BSD label, a label over the root, a mirror of two disks, a gnop
    /// with an offset over a memory disk, and the users of some of them.
    fn appliance() -> String {
        let disk = "\t    <fwheads>255</fwheads>\n\t    <fwsectors>63</fwsectors>\n\
                    \t    <rotationrate>unknown</rotationrate>\n\t    <ident>4C53</ident>\n\
                    \t    <descr>Generic &#x26; Co Flash</descr>\n";
        mesh(&[
            geom("DEV", "", &["0x1"], &[]),
            geom(
                "PART",
                "<scheme>MBR</scheme>",
                &["0x1"],
                &[
                    part("0x2", "da0s1", 1, MB, 100 * MB),
                    part("0x3", "da0s2", 2, 101 * MB, 100 * MB),
                ],
            ),
            geom(
                "PART",
                "<scheme>BSD</scheme>",
                &["0x2"],
                &[part("0x4", "da0s1a", 1, 8192, 99 * MB)],
            ),
            geom("DISK", "", &[], &[provider("0x1", "da0", 300 * MB, "r2w1e3", disk)]),
            geom("DISK", "", &[], &[provider("0x10", "ada0", 50 * MB, "r1w1e1", disk)]),
            geom("DISK", "", &[], &[provider("0x11", "ada1", 50 * MB, "r1w1e1", disk)]),
            geom(
                "LABEL",
                "",
                &["0x4"],
                &[provider(
                    "0x5",
                    "ufs/root",
                    99 * MB,
                    "r1w0e0",
                    "\t    <index>0</index>\n\t    <length>103809024</length>\n\
                 \t    <seclength>202752</seclength>\n\t    <offset>0</offset>\n\
                 \t    <secoffset>0</secoffset>\n",
                )],
            ),
            geom(
                "MIRROR",
                "<State>COMPLETE</State>",
                &["0x10", "0x11"],
                &[provider("0x12", "mirror/gm0", 50 * MB - 512, "r0w0e0", "")],
            ),
            geom("MD", "", &[], &[provider("0x20", "md0", 64 * MB, "r1w1e1", "")]),
            geom(
                "NOP",
                "<Offset>1048576</Offset>",
                &["0x20"],
                &[provider("0x21", "md0.nop", 63 * MB, "r0w0e0", "")],
            ),
            geom(
                "PART",
                "<scheme>GPT</scheme>",
                &["0x21"],
                &[part("0x22", "md0.nopp1", 1, MB, MB)],
            ),
            geom("ELI", "", &["0x3"], &[provider("0x30", "da0s2.eli", 99 * MB, "r0w0e0", "")]),
            geom("VFS", "", &["0x4"], &[]),
        ])
    }

    fn id(devices: &Devices, name: &str) -> Id {
        devices.find(Path::new(name)).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn an_appliance_is_understood() {
        let d = parse(&appliance()).unwrap();
        let class = |name: &str| d.get(id(&d, name)).class.clone();
        assert_eq!(class("da0"), Class::Disk);
        assert_eq!(class("da0s2"), Class::Partition { index: 2 });
        assert_eq!(class("ufs/root"), Class::Alias);
        assert_eq!(class("mirror/gm0"), Class::Mirror);
        assert_eq!(class("da0s2.eli"), Class::Other("ELI".to_owned()));
        let da0 = d.get(id(&d, "da0"));
        assert_eq!((da0.size, da0.sector, da0.lower.len()), (300 * MB, 512, 0));
        assert_eq!(d.settle(id(&d, "ufs/root")), id(&d, "da0s1a"));
        assert_eq!(d.providers.len(), 12);
    }

    #[test]
    fn extents_go_down_to_the_disk() {
        let d = parse(&appliance()).unwrap();
        let da0 = id(&d, "da0");
        let start = MB + 8192;
        assert_eq!(
            d.extents(id(&d, "ufs/root")),
            [Extent { base: da0, start, end: start + 99 * MB }]
        );
        let both: Vec<_> =
            d.extents(id(&d, "mirror/gm0")).iter().map(|e| (e.base, e.end)).collect();
        assert_eq!(both, [(id(&d, "ada0"), 50 * MB), (id(&d, "ada1"), 50 * MB)]);
        // Encryption covers all of its slice and nothing beside it.
        assert!(d.overlap(id(&d, "da0s2.eli"), id(&d, "da0s2")));
        assert!(!d.overlap(id(&d, "da0s2.eli"), id(&d, "da0s1a")));
    }

    #[test]
    fn a_gnop_over_a_whole_disk_is_the_medium_of_its_partitions() {
        let d = parse(&appliance()).unwrap();
        let p1 = id(&d, "md0.nopp1");
        assert_eq!(d.get(id(&d, "md0.nop")).class, Class::Disk);
        assert_eq!(d.medium(p1), Some(id(&d, "md0.nop")));
        let md0 = id(&d, "md0");
        assert_eq!(d.extents(p1), [Extent { base: md0, start: 2 * MB, end: 3 * MB }]);
        assert_eq!(d.medium(id(&d, "da0s2.eli")), Some(id(&d, "da0")));
    }

    #[test]
    fn what_withers_is_gone_with_all_above_it() {
        let mut text = appliance();
        let at = text.find("<name>da0</name>").unwrap();
        text.insert_str(at, "<wither/>");
        let d = parse(&text).unwrap();
        for name in ["da0", "da0s1", "da0s1a", "ufs/root", "da0s2.eli"] {
            assert_eq!(d.find(Path::new(name)), None, "{name}");
        }
        assert!(d.get(id(&d, "mirror/gm0")).lower.len() == 2);
        assert_eq!(d.get(d.medium(id(&d, "md0.nopp1")).unwrap()).name, "md0.nop");
    }

    #[test]
    fn a_mirror_that_lost_a_half_keeps_the_other() {
        let d = parse(&appliance().replace(
            "<name>ada1</name>\n\t  <mediasize>52428800</mediasize>",
            "<name>ada1</name>\n\t  <mediasize>0</mediasize>",
        ))
        .unwrap();
        assert_eq!(d.find(Path::new("ada1")), None);
        let mirror = d.get(id(&d, "mirror/gm0"));
        assert_eq!(mirror.lower, [Lower { id: id(&d, "ada0"), offset: None }]);
    }

    #[test]
    fn an_offset_is_computed_from_sectors_where_bytes_are_missing() {
        let text = appliance().replace("<offset>105906176</offset>", "");
        let d = parse(&text).unwrap();
        assert_eq!(d.get(id(&d, "da0s2")).lower[0].offset, Some(101 * MB));
        // An entry that is deleted but not committed: nobody knows where it was.
        let config = text.find("<start>206848</start>").unwrap();
        let end = config + text[config..].find("\t  </config>").unwrap();
        let d = parse(&format!("{}{}", &text[..config], &text[end..])).unwrap();
        let s2 = id(&d, "da0s2");
        assert_eq!(d.get(s2).lower[0].offset, None);
        assert!(d.overlap(s2, id(&d, "da0s1a")));
    }

    #[test]
    fn names_are_bytes() {
        let text = appliance()
            .replace("ufs/root", "ufs/k&#xC3;&#xBC;che")
            .replace("<name>da0</name>", "<name>da0</name>\n\t  <alias>disk/by&#x2D;me</alias>");
        let d = parse(&text).unwrap();
        assert!(d.find(Path::new("/dev/ufs/küche")).is_some());
        assert_eq!(d.find(Path::new("/dev/disk/by-me")), Some(id(&d, "da0")));
    }

    #[test]
    fn dangling_references_loops_and_nonsense_are_errors() {
        let good = appliance();
        for (from, to, complaint) in [
            ("<provider ref=\"0x4\"/>", "<provider ref=\"0x99\"/>", "unknown 0x99"),
            ("<provider ref=\"0x20\"/>", "<provider ref=\"0x22\"/>", "lies on itself"),
            ("<mesh>", "<mash>", "XML"),
            ("<sectorsize>512</sectorsize>", "<sectorsize>0</sectorsize>", "sectors of 0"),
            ("<sectorsize>512</sectorsize>", "", "no sectorsize"),
            ("<mediasize>314572800</mediasize>", "<mediasize>-1</mediasize>", "\"-1\""),
            ("<name>da0</name>", "", "no name"),
            ("<provider id=\"0x1\">", "<provider id=\"0x2\">", "two providers"),
            ("<provider id=\"0x1\">", "<provider>", "no id"),
            ("<index>2</index>", "<index>4294967296</index>", "index"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = parse(&good.replace(from, to)).unwrap_err().to_string();
            let wanted = if complaint == "XML" { "expected" } else { complaint };
            assert!(error.contains(wanted), "{to}: {error}");
        }
        assert!(parse("<config/>").is_err());
        assert!(parse("").is_err());
        assert_eq!(parse("<mesh></mesh>").unwrap(), Devices::default());
    }

    #[test]
    fn opens_are_counted() {
        let text = appliance();
        let da0 = opens(&text, "da0").unwrap();
        assert_eq!(da0, Some(Opens { readers: 2, writers: 1, exclusive: 3 }));
        assert_eq!(opens(&text, "da9").unwrap(), None);
        assert!(opens(&text.replace("r2w1e3", "r2w1"), "da0").is_err());
    }

    proptest! {
        #[test]
        fn changed_text_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..8),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut bytes = appliance().into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if !whole {
                bytes.truncate(cut.index(bytes.len()));
            }
            let text = String::from_utf8_lossy(&bytes);
            let _ = opens(&text, "da0");
            if let Ok(devices) = parse(&text) {
                for id in 0..devices.providers.len() {
                    let _ = (devices.extents(id), devices.medium(id), devices.chain(id));
                }
            }
        }

        #[test]
        fn any_graph_is_read_or_refused(
            edges in prop::collection::vec((0usize..12, 0usize..13, 0usize..5), 0..24),
        ) {
            let classes = ["DISK", "PART", "LABEL", "MIRROR", "NOP"];
            let mut geoms = Vec::new();
            for place in 0..12 {
                let below: Vec<String> = edges
                    .iter()
                    .filter(|e| e.0 == place)
                    .map(|e| format!("0x{:x}", e.1))
                    .collect();
                let below: Vec<&str> = below.iter().map(String::as_str).collect();
                let class = edges.iter().find(|e| e.0 == place).map_or("DISK", |e| classes[e.2]);
                let id = format!("0x{place:x}");
                geoms.push(geom(class, "", &below, &[part(&id, &id, 1, MB, MB)]));
            }
            if let Ok(devices) = parse(&mesh(&geoms)) {
                for id in 0..devices.providers.len() {
                    // No loops: the chain ends at something that lies on nothing, or at a medium.
                    let last = *devices.chain(id).last().unwrap();
                    let last = devices.get(last);
                    prop_assert!(last.lower.is_empty() || last.class == Class::Disk);
                    for extent in devices.extents(id) {
                        prop_assert!(devices.get(extent.base).lower.is_empty());
                    }
                }
            }
        }
    }
}
