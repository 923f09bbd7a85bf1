//! Two trees compared by the base system's own tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{BASE, Run, program, tool};

/// What is not the same on purpose: our own directory, what UFS keeps for itself, and files that
/// name their own slot, and what the box knows of its slots.
const NOT_COMPARED: [&str; 5] =
    [".dualroot", ".snap", ".sujournal", "etc/fstab", "var/db/dualroot"];

/// A file of 8 GB that are nearly all hole: mtree(8) does not read it here, it would take minutes.
/// Its blocks are compared, so a hole is still one.
pub const HUGE: &str = "d/huge";

/// mtree(8)'s keywords that a copy must keep.
const KEYWORDS: &str = "type,mode,uid,gid,size,time,link,flags,device,sha256digest";

/// Fails with the differences that mtree(8), stat(1), ls(1), getfacl(1) and getextattr(8) see.
#[track_caller]
pub fn assert_equal(source: &Path, copy: &Path) {
    assert_same("mtree", &mtree(source), &mtree(copy));
    // The times of birth, links, and what is sparse; a directory's size is the file system's.
    let files = "! -type d -exec stat -f '%N %HT %Sp %l %u %g %z %b %Fm %FB %Sf' {} +";
    assert_same("stat", &each(source, files), &each(copy, files));
    let dirs = "-type d -exec stat -f '%N %Sp %u %g %Fm %FB %Sf' {} +";
    assert_same("stat", &each(source, dirs), &each(copy, dirs));
    let ls = "! -type d -exec ls -ldo {} +";
    assert_same("ls -lo", &each(source, ls), &each(copy, ls));
    let acl = "! -type l -exec getfacl {} +";
    assert_same("getfacl", &blocks(source, acl), &blocks(copy, acl));
    assert_eq!(has_nfs4_acls(source), has_nfs4_acls(copy));
    if !has_nfs4_acls(source) {
        let default = "-type d -exec getfacl -d {} +";
        assert_same("getfacl -d", &blocks(source, default), &blocks(copy, default));
    }
    for space in ["user", "system"] {
        assert_same(&format!("extattr {space}"), &extattr(source, space), &extattr(copy, space));
    }
    assert_same("hard links", &groups(source), &groups(copy));
}

#[track_caller]
fn assert_same(what: &str, source: &BTreeSet<String>, copy: &BTreeSet<String>) {
    let (lost, new) = (source.difference(copy), copy.difference(source));
    let lost: Vec<_> = lost.take(5).collect();
    let new: Vec<_> = new.take(5).collect();
    assert!(lost.is_empty() && new.is_empty(), "{what}: source {lost:#?}, copy {new:#?}");
    assert!(!source.is_empty() || what.contains("ext") || what.contains("-d"), "{what}: nothing");
}

/// A specification with a full path in every line.
fn mtree(root: &Path) -> BTreeSet<String> {
    let excluded = Path::new(BASE).join("exclude");
    let names: Vec<_> = NOT_COMPARED.iter().chain([&HUGE]).map(|n| format!("./{n}\n")).collect();
    fs::write(&excluded, names.concat()).unwrap();
    let script = format!("mtree -c -x -k {KEYWORDS} -X \"$1\" -p \"$2\" | mtree -C");
    let mut shell = program("/bin/sh");
    shell.args(["-c", &script, "sh"]).arg(&excluded).arg(root);
    let text = Run::of(&mut shell).exits(0).stdout;
    text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
}

/// The output of a find(1) expression below `root`, from there.
fn find(root: &Path, expression: &str) -> String {
    let not = NOT_COMPARED.map(|n| format!("-not -path './{n}' -not -path './{n}/*' ")).concat();
    let script = format!("cd \"$1\" && find -x . {not} {expression}");
    Run::of(program("/bin/sh").args(["-c", &script, "sh"]).arg(root)).exits(0).stdout
}

fn each(root: &Path, expression: &str) -> BTreeSet<String> {
    find(root, expression).lines().map(str::to_owned).collect()
}

fn blocks(root: &Path, expression: &str) -> BTreeSet<String> {
    find(root, expression).split("\n\n").map(|block| block.trim_end().to_owned()).collect()
}

/// Whether the ACLs there are NFSv4's, which inherit without default entries: setfacl(1).
fn has_nfs4_acls(root: &Path) -> bool {
    tool("getfacl", &[&"-q", &root]).contains("owner@:")
}

/// Every attribute with its value in hexadecimal. UFS keeps none on devices (`ffs_listextattr`).
fn extattr(root: &Path, space: &str) -> BTreeSet<String> {
    let names = find(root, &format!("! -type b ! -type c -exec lsextattr -h {space} {{}} +"));
    let mut found = BTreeSet::new();
    for line in names.lines() {
        let mut words = line.split('\t').map(str::trim).filter(|w| !w.is_empty());
        let Some(file) = words.next() else { continue };
        for name in words {
            let path = root.join(file);
            let value = tool("getextattr", &[&"-h", &"-q", &"-x", &space, &name, &path]);
            found.insert(format!("{file} {name} {}", value.trim()));
        }
    }
    found
}

/// The names of each file of several names.
fn groups(root: &Path) -> BTreeSet<String> {
    let mut inodes = std::collections::BTreeMap::<String, Vec<String>>::new();
    let links = find(root, "-not -type d -links +1 -exec stat -f '%i %N' {} +");
    for line in links.lines() {
        let Some((inode, name)) = line.split_once(' ') else { continue };
        inodes.entry(inode.to_owned()).or_default().push(name.to_owned());
    }
    let mut groups: BTreeSet<String> = BTreeSet::from(["(none)".to_owned()]);
    groups.extend(inodes.into_values().map(|mut names| {
        names.sort();
        names.join(" ")
    }));
    groups
}

/// `fsck_ffs`(8) finds nothing to do, looking at everything.
#[track_caller]
pub fn assert_sound(node: &str) {
    let run = Run::of(program("fsck_ffs").args(["-f", "-n", node])).exits(0);
    let fault = run.stdout.lines().find(|l| l.contains("? no") || l.contains("UNEXPECTED"));
    assert!(fault.is_none(), "fsck_ffs: {run}");
}

/// `mtree -f` with the copy's own manifest agrees with the copy.
#[track_caller]
pub fn assert_manifest(copy: &Path) {
    let manifest = copy.join(".dualroot/manifest.mtree");
    let run = Run::of(program("mtree").arg("-f").arg(manifest).arg("-p").arg(copy));
    assert!(run.code == 0 && run.stdout.trim().is_empty(), "{run}");
}
