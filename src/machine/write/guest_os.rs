//! What runs in a machine, in each format's identifiers.
//!
//! Hypervisors choose defaults by it and no more, so a neighbouring release is better than none; what is not in the table
//! becomes "some Linux" or "something of 64 bits".
//!
//! Sources: VMware, "guestOS" values of `.vmx` and `VirtualMachineGuestOsIdentifier` of the vSphere API; libosinfo's
//! database; DMTF CIM schema, `CIM_OperatingSystem.OsType`.

use super::Target;

/// One system: its name in a `.vmx`, in the vSphere API (and so in an OVF), in libosinfo, and its number in CIM.
struct Row {
    vmx: &'static str,
    vsphere: &'static str,
    /// Empty: libosinfo has no general name for it.
    libosinfo: &'static str,
    cim: u16,
}

const fn row(vmx: &'static str, vsphere: &'static str, libosinfo: &'static str, cim: u16) -> Row {
    Row { vmx, vsphere, libosinfo, cim }
}

const SYSTEMS: [Row; 33] = [
    row("debian8-64", "debian8_64Guest", "http://debian.org/debian/8", 96),
    row("debian9-64", "debian9_64Guest", "http://debian.org/debian/9", 96),
    row("debian10-64", "debian10_64Guest", "http://debian.org/debian/10", 96),
    row("debian11-64", "debian11_64Guest", "http://debian.org/debian/11", 96),
    row("debian12-64", "debian12_64Guest", "http://debian.org/debian/12", 96),
    row("debian13-64", "debian13_64Guest", "http://debian.org/debian/13", 96),
    row("ubuntu-64", "ubuntu64Guest", "http://ubuntu.com/ubuntu/22.04", 94),
    row("rhel6-64", "rhel6_64Guest", "http://redhat.com/rhel/6.10", 80),
    row("rhel7-64", "rhel7_64Guest", "http://redhat.com/rhel/7.9", 80),
    row("rhel8-64", "rhel8_64Guest", "http://redhat.com/rhel/8.10", 80),
    row("rhel9-64", "rhel9_64Guest", "http://redhat.com/rhel/9.4", 80),
    row("centos7-64", "centos7_64Guest", "http://centos.org/centos/7.0", 107),
    row("centos8-64", "centos8_64Guest", "http://centos.org/centos/8", 107),
    row("centos9-64", "centos9_64Guest", "http://centos.org/centos-stream/9", 107),
    row("almalinux-64", "almalinux_64Guest", "http://almalinux.org/almalinux/9", 101),
    row("rockylinux-64", "rockylinux_64Guest", "http://rockylinux.org/rocky/9", 101),
    row("oraclelinux8-64", "oracleLinux8_64Guest", "http://oracle.com/ol/8.9", 109),
    row("fedora-64", "fedora64Guest", "http://fedoraproject.org/fedora/40", 101),
    row("sles12-64", "sles12_64Guest", "http://suse.com/sles/12.5", 85),
    row("sles15-64", "sles15_64Guest", "http://suse.com/sles/15.5", 85),
    row("opensuse-64", "opensuse64Guest", "http://opensuse.org/opensuse/15.5", 83),
    row("freebsd13-64", "freebsd13_64Guest", "http://freebsd.org/freebsd/13.2", 78),
    row("windows7-64", "windows7_64Guest", "http://microsoft.com/win/7", 105),
    row("windows8srv-64", "windows8Server64Guest", "http://microsoft.com/win/2k12", 113),
    row("windows9-64", "windows9_64Guest", "http://microsoft.com/win/10", 1),
    row("windows11-64", "windows11_64Guest", "http://microsoft.com/win/11", 1),
    row("windows9srv-64", "windows9Server64Guest", "http://microsoft.com/win/2k16", 1),
    row("windows2019srv-64", "windows2019srv_64Guest", "http://microsoft.com/win/2k19", 112),
    row("windows2019srvnext-64", "windows2019srvNext_64Guest", "http://microsoft.com/win/2k22", 112),
    row("other6xlinux-64", "other6xLinux64Guest", "http://libosinfo.org/linux/2022", 101),
    row("other5xlinux-64", "other5xLinux64Guest", "http://libosinfo.org/linux/2020", 101),
    row("otherlinux-64", "otherLinux64Guest", "http://libosinfo.org/linux/2018", 101),
    row("other-64", "otherGuest64", "", 102),
];

/// What other formats call a system: the beginning of the identifier, and the `.vmx` name of its row. First match counts.
const ALIASES: [(&str, &str); 23] = [
    // Proxmox VE's `ostype`.
    ("l26", "other5xlinux-64"),
    ("l24", "otherlinux-64"),
    ("win11", "windows11-64"),
    ("win10", "windows9-64"),
    ("win8", "windows8srv-64"),
    ("win7", "windows7-64"),
    // VirtualBox, and libosinfo in other releases.
    ("http://debian.org/debian/", "debian12-64"),
    ("http://ubuntu.com/ubuntu/", "ubuntu-64"),
    ("http://fedoraproject.org/fedora/", "fedora-64"),
    ("http://redhat.com/rhel/9", "rhel9-64"),
    ("http://redhat.com/rhel/8", "rhel8-64"),
    ("http://almalinux.org/", "almalinux-64"),
    ("http://rockylinux.org/", "rockylinux-64"),
    ("debian", "debian12-64"),
    ("ubuntu", "ubuntu-64"),
    ("fedora", "fedora-64"),
    ("redhat", "rhel8-64"),
    ("windows11", "windows11-64"),
    ("windows2022", "windows2019srvnext-64"),
    ("windows2019", "windows2019srv-64"),
    ("windows2016", "windows9srv-64"),
    ("windows10", "windows9-64"),
    ("linux", "otherlinux-64"),
];

/// The identifier of `target` for what another format calls `id`.
pub(super) fn translated(target: Target, id: Option<&str>) -> Option<String> {
    let Some(id) = id else { return general(target) };
    let known = SYSTEMS.iter().find(|row| row.names().iter().any(|name| name.eq_ignore_ascii_case(id)));
    let lower = id.to_ascii_lowercase();
    let alias = || ALIASES.iter().find(|(beginning, _)| lower.starts_with(beginning)).and_then(|(_, vmx)| by_vmx(vmx));
    match known.or_else(alias) {
        Some(row) => row.of(target),
        None if lower.contains("linux") => by_vmx("otherlinux-64").and_then(|row| row.of(target)),
        None => general(target),
    }
}

/// CIM's number of the system that vSphere calls `id`.
pub(super) fn cim_number(id: Option<&str>) -> u16 {
    SYSTEMS.iter().find(|row| Some(row.vsphere) == id).map_or(1, |row| row.cim)
}

fn by_vmx(name: &str) -> Option<&'static Row> {
    SYSTEMS.iter().find(|row| row.vmx == name)
}

/// What to say of a system that is not known.
fn general(target: Target) -> Option<String> {
    by_vmx("other-64").and_then(|row| row.of(target))
}

impl Row {
    fn names(&self) -> [&'static str; 3] {
        [self.vmx, self.vsphere, self.libosinfo]
    }

    fn of(&self, target: Target) -> Option<String> {
        let name = match target {
            Target::Vmx => self.vmx,
            Target::Ovf => self.vsphere,
            Target::Libvirt => self.libosinfo,
        };
        (!name.is_empty()).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_keep_their_names_across_formats() {
        #[track_caller]
        fn check(target: Target, id: &str, expected: Option<&str>) {
            assert_eq!(translated(target, Some(id)).as_deref(), expected, "{id}");
        }
        check(Target::Libvirt, "debian12-64", Some("http://debian.org/debian/12"));
        check(Target::Vmx, "http://debian.org/debian/12", Some("debian12-64"));
        check(Target::Ovf, "debian12-64", Some("debian12_64Guest"));
        check(Target::Vmx, "debian11_64Guest", Some("debian11-64"));
        check(Target::Vmx, "http://ubuntu.com/ubuntu/24.04", Some("ubuntu-64"));
        check(Target::Vmx, "l26", Some("other5xlinux-64"));
        check(Target::Vmx, "Windows2019_64", Some("windows2019srv-64"));
        check(Target::Vmx, "other3xlinux-64", Some("otherlinux-64"));
        check(Target::Vmx, "solaris", Some("other-64"));
        check(Target::Libvirt, "solaris", None);
        assert_eq!(translated(Target::Ovf, None).as_deref(), Some("otherGuest64"));
    }

    #[test]
    fn every_name_means_one_row_and_translates_to_itself() {
        for row in &SYSTEMS {
            for target in [Target::Vmx, Target::Ovf, Target::Libvirt] {
                let Some(name) = row.of(target) else { continue };
                assert_eq!(translated(target, Some(&name)), Some(name));
            }
        }
        assert!(ALIASES.iter().all(|(_, vmx)| by_vmx(vmx).is_some()));
    }
}
