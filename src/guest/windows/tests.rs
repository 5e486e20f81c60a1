//! Drives by Windows' own account, and where it gives none or a damaged one.

use std::sync::Arc;

use super::*;
use crate::guest::GuestError;
use crate::guest::memory::MemoryTree;
use crate::guest::view::GuestView;

fn volume(name: &str, id: &str, start: u64, files: &[(&str, &str)]) -> NamedVolume {
    let names = DeviceNames { partition_uuid: id.to_owned(), partition_start: Some(start), ..DeviceNames::default() };
    NamedVolume { name: name.to_owned(), names, filesystem: Ok(Arc::new(MemoryTree::new(files))) }
}

#[test]
fn partitions_are_known_by_their_table() {
    #[track_caller]
    fn check(data: &[u8], id: &str, start: u64, fits: Option<bool>) {
        let volume = volume("v", id, start, &[]);
        assert_eq!(Device::read(data).map(|device| device.is(&volume.names)), fits, "{data:x?}");
    }
    const MBR: [u8; 12] = [0x0d, 0xf0, 0xad, 0x0b, 0, 0, 0x10, 0, 0, 0, 0, 0];
    check(&MBR, "0badf00d-01", 1 << 20, Some(true));
    check(&MBR, "0badf00d-01", 2 << 20, Some(false));
    check(&MBR, "0badf00e-01", 1 << 20, Some(false));
    check(&MBR, "badf00d-01", 1 << 20, Some(false));
    check(&MBR, "", 1 << 20, Some(false));
    check(&MBR[..11], "0badf00d-01", 1 << 20, None);
    // A disk whose signature looks like the other form's beginning is one all the same.
    check(b"DMIO:ID:abcd", "4f494d44-01", 0, None);
    let mut gpt = b"DMIO:ID:\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff".to_vec();
    let id = "00112233-4455-6677-8899-aabbccddeeff";
    check(&gpt, id, 0, Some(true));
    check(&gpt, &id.to_uppercase(), 0, Some(true));
    check(&gpt, "00112233-4455-6677-8899-aabbccddeefe", 0, Some(false));
    check(&gpt, "", 0, Some(false));
    gpt.pop();
    check(&gpt, id, 0, None);
    check(&r"\??\USBSTOR#Disk".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), id, 0, None);
    check(&[], id, 0, None);
}

#[test]
fn windows_without_a_list_is_on_drive_c() {
    let data = || volume("disk0/p1", "0badf00d-01", 1 << 20, &[("/Daten/x", "data")]);
    let system = |hive: &str| {
        let hive = ("/Windows/System32/config/SYSTEM", hive);
        volume("disk0/p2", "0badf00d-02", 2 << 20, &[("/Users/x", "user"), hive])
    };
    let drive_c = [Drive { letter: 'C', volume: "disk0/p2".to_owned() }];
    let found = drives(&[data(), system("regf but too short")]);
    assert_eq!(found.drives, drive_c);
    let unread =
        "disk0/p2: the letters of Windows's drives cannot be read (base block at 0x0 of the hive: expected \"regf\")";
    assert_eq!(found.warnings, [unread]);
    let old = volume("disk1/p1", "", 0, &[("/WINNT/system32/", "")]);
    let two = drives(&[old, data(), system("")]);
    assert_eq!(two.drives, [Drive { letter: 'C', volume: "disk1/p1".to_owned() }]);
    assert_eq!(two.warnings[0], "letters are those of Windows on disk1/p1, not on disk0/p2");
    assert!(two.warnings[1].contains("there is no \"config\""), "{:?}", two.warnings);
    assert_eq!(drives(&[data()]), Drives::default());
    assert!(GuestView::of_drives(&Drives::default(), &[data()]).is_none());
}

#[test]
fn the_view_has_a_folder_for_each_drive_and_names_those_it_cannot_show() {
    let drive = |letter, volume: &str| Drive { letter, volume: volume.to_owned() };
    let all = Drives {
        drives: vec![drive('C', "disk0/p1"), drive('D', "disk0/p2"), drive('E', "disk1")],
        warnings: vec!["odd".to_owned()],
    };
    let encrypted = NamedVolume {
        filesystem: Err(Arc::new(GuestError::Unsupported { feature: "bitlocker".to_owned() })),
        ..volume("disk0/p2", "", 0, &[])
    };
    let c = [("/Users/x", "user"), ("/to e", "-> /E:/y"), ("/up", "-> ../E:/y")];
    let volumes = [volume("disk0/p1", "", 0, &c), encrypted, volume("disk1", "", 0, &[("/y", "other")])];
    let view = GuestView::of_drives(&all, &volumes).expect("there are drives");
    assert!(view.has_drives());
    let unshown = "drive D: is not shown: disk0/p2: bitlocker is not supported";
    assert_eq!(view.summary().warnings, ["odd", unshown]);
    assert_eq!((&*view.missing()[0].folder, &*view.missing()[0].warning), ("/D:", unshown));
    let mut names = Vec::new();
    view.read_directory(view.root(), &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(names, ["C:", "E:"]);
    for (path, content) in [("/C:/Users/x", "user"), ("c:/Users/x", "user"), ("/C:/to e", "other"), ("/C:/up", "other")]
    {
        let node = resolve(&view, path.as_bytes(), LastLink::Follow).unwrap_or_else(|err| panic!("{path}: {err}"));
        let mut buf = [0; 20];
        let len = view.read_at(node, 0, &mut buf).unwrap();
        assert_eq!(&buf[..len], content.as_bytes(), "{path}");
    }
    assert!(resolve(&view, b"/D:", LastLink::Keep).is_err());
    assert!(view.read_at(view.root(), 0, &mut [0]).is_err());
}
