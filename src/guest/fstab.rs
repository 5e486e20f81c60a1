//! `/etc/fstab`: which volume a Linux guest mounts where. Pure; source: fstab(5).

/// Largest file read: real ones have a few kilobytes.
pub const FSTAB_BYTES_MAX: usize = 1 << 20;
/// Most lines that count.
const MOUNTS_MAX: usize = 1000;
/// Filesystems that are on no disk of the machine.
const NOT_ON_DISK: [&str; 23] = [
    "9p",
    "autofs",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse",
    "glusterfs",
    "hugetlbfs",
    "mqueue",
    "nfs",
    "nfs4",
    "proc",
    "smb3",
    "sshfs",
    "swap",
    "sysfs",
    "tmpfs",
];

/// A line of an `fstab` that mounts a volume into the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted: `UUID=…`, `/dev/mapper/vg0-root`.
    pub device: String,
    /// Where: absolute.
    pub folder: String,
    /// The btrfs subvolume named by `subvol=`, without a leading slash.
    pub subvolume: Option<String>,
    /// Mounted only when somebody asks for it (`noauto`): a drive for CDs, a stick.
    pub on_demand: bool,
}

/// The mounts that a file names, in an order in which each finds its folder: parents first.
pub fn mounts(text: &[u8]) -> Vec<Mount> {
    let text = String::from_utf8_lossy(text);
    let mut mounts: Vec<Mount> = text.lines().filter_map(mount).take(MOUNTS_MAX).collect();
    mounts.sort_by_key(|mount| mount.folder.trim_end_matches('/').matches('/').count());
    mounts
}

fn mount(line: &str) -> Option<Mount> {
    let mut fields = line.split([' ', '\t']).filter(|field| !field.is_empty());
    let device = unescaped(fields.next().filter(|first| !first.starts_with('#'))?);
    let folder = unescaped(fields.next()?);
    let kind = fields.next().unwrap_or("auto");
    let options = fields.next().unwrap_or_default();
    let bound = options.split(',').any(|option| matches!(option, "bind" | "rbind"));
    if !folder.starts_with('/') || NOT_ON_DISK.contains(&kind) || kind.starts_with("fuse.") || bound {
        return None;
    }
    let subvolume = options.split(',').find_map(|option| option.strip_prefix("subvol="));
    let subvolume = subvolume.map(|name| unescaped(name).trim_matches('/').to_owned());
    let on_demand = options.split(',').any(|option| option == "noauto");
    Some(Mount { device, folder, subvolume: subvolume.filter(|name| !name.is_empty()), on_demand })
}

/// Spaces and the like stand as `\` and three octal digits.
fn unescaped(field: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The names by which the guest may call a volume, as they stand in an `fstab`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNames {
    /// Its filesystem's UUID, as `blkid` prints it.
    pub uuid: String,
    /// Its filesystem's label.
    pub label: String,
    /// Its partition's UUID.
    pub partition_uuid: String,
    /// Where its partition begins on its disk, in bytes.
    pub partition_start: Option<u64>,
    /// Its partition's name.
    pub partition_label: String,
    /// Number of its disk on the machine and of its partition on the disk (0 for a whole disk).
    pub place: Option<(usize, u32)>,
    /// Its volume group and logical volume.
    pub logical: Option<(String, String)>,
}

impl DeviceNames {
    /// Whether `device` means this volume. Kernel names (`/dev/sda1`) are taken to count disks in the machine's order.
    pub fn fits(&self, device: &str) -> bool {
        let same = |ours: &str, wanted: &str| !ours.is_empty() && ours.eq_ignore_ascii_case(wanted.trim_matches('"'));
        if let Some((tag, value)) = device.split_once('=') {
            return match tag.to_ascii_uppercase().as_str() {
                "UUID" => same(&self.uuid, value),
                "LABEL" => !self.label.is_empty() && self.label == value.trim_matches('"'),
                "PARTUUID" => same(&self.partition_uuid, value),
                "PARTLABEL" => !self.partition_label.is_empty() && self.partition_label == value.trim_matches('"'),
                _ => false,
            };
        }
        let Some(path) = device.strip_prefix("/dev/") else { return false };
        if let Some((folder, name)) = path.strip_prefix("disk/").and_then(|path| path.split_once('/')) {
            return match folder {
                "by-uuid" => same(&self.uuid, name),
                "by-label" => !self.label.is_empty() && self.label == name,
                "by-partuuid" => same(&self.partition_uuid, name),
                "by-partlabel" => !self.partition_label.is_empty() && self.partition_label == name,
                _ => false,
            };
        }
        if let Some((group, volume)) = &self.logical {
            let mapped = format!("mapper/{}-{}", group.replace('-', "--"), volume.replace('-', "--"));
            if path == mapped || path == format!("{group}/{volume}") {
                return true;
            }
        }
        self.place.is_some() && self.place == kernel_name(path)
    }
}

/// Disk and partition of a kernel's name: `sda1` → (0, 1), `vdb` → (1, 0), `nvme1n1p2` → (1, 2).
fn kernel_name(name: &str) -> Option<(usize, u32)> {
    if let Some(rest) = name.strip_prefix("nvme") {
        let (disk, rest) = rest.split_once('n')?;
        let partition = rest.split_once('p').map_or(Some(0), |(_, partition)| partition.parse().ok())?;
        return Some((disk.parse().ok()?, partition));
    }
    let rest = ["sd", "vd", "xvd", "hd"].iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &rest[letters.len()..];
    let letter = letters.bytes().next().filter(|letter| letters.len() == 1 && letter.is_ascii_lowercase())?;
    let partition = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some((usize::from(letter - b'a'), partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_and_what_is_not() {
        let text = b"# /etc/fstab\n\
            UUID=aa-bb /home/data\\040disk ext4 defaults 0 2\n\
            \t/dev/mapper/vg0-var--log /var/log\txfs defaults 0 0\n\
            UUID=cc / btrfs subvol=/@rootfs,noatime 0 1\n\
            UUID=dd none swap sw 0 0\n\
            tmpfs /tmp tmpfs defaults 0 0\n\
            server:/x /mnt nfs defaults 0 0\n\
            /srv/a /srv/b none bind 0 0\n\
            LABEL=EFI /boot/efi vfat\n\
            /dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n\
            broken\n";
        let mount = |device: &str, folder: &str, subvolume: Option<&str>| Mount {
            device: device.to_owned(),
            folder: folder.to_owned(),
            subvolume: subvolume.map(str::to_owned),
            on_demand: device == "/dev/sr0",
        };
        let expected = [
            mount("UUID=cc", "/", Some("@rootfs")),
            mount("UUID=aa-bb", "/home/data disk", None),
            mount("/dev/mapper/vg0-var--log", "/var/log", None),
            mount("LABEL=EFI", "/boot/efi", None),
            mount("/dev/sr0", "/media/cdrom0", None),
        ];
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn a_volume_is_known_by_all_its_names() {
        let names = DeviceNames {
            uuid: "5d0a-77".to_owned(),
            label: "Root".to_owned(),
            partition_uuid: "0aFF-01".to_owned(),
            partition_start: None,
            partition_label: "linux".to_owned(),
            place: Some((0, 2)),
            logical: Some(("vg-0".to_owned(), "root".to_owned())),
        };
        for device in [
            "UUID=5D0A-77",
            "UUID=\"5d0a-77\"",
            "LABEL=Root",
            "PARTUUID=0aff-01",
            "PARTLABEL=linux",
            "/dev/disk/by-uuid/5d0a-77",
            "/dev/disk/by-partlabel/linux",
            "/dev/sda2",
            "/dev/vda2",
            "/dev/nvme0n1p2",
            "/dev/mapper/vg--0-root",
            "/dev/vg-0/root",
        ] {
            assert!(names.fits(device), "{device}");
        }
        for device in
            ["UUID=", "LABEL=root", "/dev/sda", "/dev/sdb2", "/dev/sda22", "/dev/sdaa2", "sda2", "/dev/md0", ""]
        {
            assert!(!names.fits(device), "{device}");
        }
        assert!(!DeviceNames::default().fits("UUID="));
    }
}
