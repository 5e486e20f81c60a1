//! A machine's hardware in words that every definition format has: what a restore needs to write the machine's definition
//! for another hypervisor.
//!
//! In here: the model only. Each format's room reads its files into it or writes it out; what a format says beyond this
//! model is kept with the backup in the original file, and lost in a conversion, which names it.

/// A machine's hardware, as one definition describes it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Hardware {
    /// What it is called.
    pub name: String,
    /// The admin's notes on it; may have several lines.
    pub description: Option<String>,
    /// Its UUID as the guest's firmware shows it: lower-case hex with dashes.
    pub uuid: Option<String>,
    /// Memory in bytes; 0 if the definition does not say.
    pub memory_bytes: u64,
    /// Virtual processors; 0 if the definition does not say.
    pub processors: u32,
    /// How it starts.
    pub firmware: Firmware,
    /// What runs in it, as the source's own identifier (`debian11-64`, `http://debian.org/debian/12`, `l26`).
    pub guest_os: Option<String>,
    /// Its disks, in the order of [`super::Machine::disks`].
    pub disks: Vec<AttachedDisk>,
    /// Its network cards, in slot order.
    pub network_cards: Vec<NetworkCard>,
    /// What the definition says that this model cannot: a line each, for the report of a conversion.
    pub not_carried_over: Vec<String>,
}

/// How a machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Firmware {
    /// PC BIOS.
    #[default]
    Bios,
    /// UEFI; its variables are in a file of their own that only the same hypervisor understands.
    Uefi {
        /// Whether only signed loaders start.
        secure_boot: bool,
    },
}

/// Where a disk hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedDisk {
    /// Its place in the words of its own format, as [`super::MachineDisk::slot`]: `scsi0:0`, `vda`.
    pub slot: String,
    /// The kind of controller.
    pub bus: Bus,
    /// The controller's number among those of its kind.
    pub controller: u32,
    /// Its number on the controller.
    pub unit: u32,
}

/// A kind of disk controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Parallel ATA.
    Ide,
    /// AHCI.
    Sata,
    /// SCSI.
    Scsi(ScsiModel),
    /// virtio-blk: one device a disk.
    Virtio,
    /// NVM Express.
    Nvme,
}

/// Which SCSI controller a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScsiModel {
    /// LSI Logic parallel (53C1030).
    LsiLogic,
    /// LSI Logic SAS (1068).
    LsiSas,
    /// BusLogic.
    BusLogic,
    /// VMware's paravirtual controller.
    VmwareParavirtual,
    /// virtio-scsi.
    Virtio,
    /// Hyper-V's synthetic controller.
    HyperV,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCard {
    /// Its address, lower-case with colons; `None` if the hypervisor makes one up at each start.
    pub mac: Option<String>,
    /// The model as the source names it, lower case (`vmxnet3`, `virtio`, `e1000`).
    pub model: Option<String>,
    /// The network or bridge it is plugged into, as the source names it.
    pub network: Option<String>,
}
