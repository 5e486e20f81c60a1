# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_abbild_global_optspecs
    string join \n repo= key-file= cache-dir= json q/quiet v/verbose no-progress color= h/help V/version
end

function __fish_abbild_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_abbild_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_abbild_using_subcommand
    set -l cmd (__fish_abbild_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c abbild -n "__fish_abbild_needs_command" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_needs_command" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_needs_command" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_needs_command" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_needs_command" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_needs_command" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_needs_command" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_needs_command" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_needs_command" -s V -l version -d 'Print version'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "init" -d 'Create a repository'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "backup" -d 'Back up machines'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "list" -d 'List backups'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "show" -d 'Show all that is known of a backup'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "stats" -d 'Show what the repository holds, what each machine costs there, and how it grows'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "restore" -d 'Restore a machine, or one of its disks'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "mount" -d 'Show backups as folders: their disks, and the files of their guests'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "umount" -d 'End a mount'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "ls" -d 'List files in guests'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "cat" -d 'Print files in guests'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "cp" -d 'Copy files out of guests'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "find" -d 'Search files in guests'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "diff" -d 'Show which files differ between two backups'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "forget" -d 'Forget backups that need not be kept, and bring them back'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "pin" -d 'Keep backups from being forgotten, and list those that are pinned'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "prune" -d 'Give back the space that nothing needs'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "copy" -d 'Copy backups to a second repository, those that are not there yet'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "check" -d 'Check whether every backup is whole'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "inspect" -d 'Describe a disk image, and what is wrong with it'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "index" -d 'Maintain the index cache'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "key" -d 'Manage who can open the repository'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "version" -d 'Print the version'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "generate" -d 'Write the manual pages and completions, as they are kept in the source tree'
complete -c abbild -n "__fish_abbild_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand init" -l label -d 'A name for the first key, to tell keys apart later' -r
complete -c abbild -n "__fish_abbild_using_subcommand init" -l parity -d 'Store a recovery record of this share of its length with each pack, so that rotten packs can be made whole' -r
complete -c abbild -n "__fish_abbild_using_subcommand init" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand init" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand init" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand init" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand init" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand init" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand init" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand init" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l snapshot -d 'Which level: the current state, the base below all redo logs, or a snapshot by its name or number' -r
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l tag -d 'Give the backups a tag to choose them by later; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l warn-free -d 'Say so when less than this share of the store\'s filesystem is free; below the last it is a warning; 0 is never' -r
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l full -d 'Read everything, whatever earlier backups and redo logs say'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand list" -l tag -d 'Only backups with this tag; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand list" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand list" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand list" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand list" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand list" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand list" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand list" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand list" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand show" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand show" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand show" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand show" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand show" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand show" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand show" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand show" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l warn-free -d 'Say so when less than this share of the store\'s filesystem is free; below the last it is a warning; 0 is never' -r
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand stats" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand stats" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand stats" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l to -d 'Folder for the whole machine; with --disk, a file or block device' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l disk -d 'Only this disk, by its number or slot' -r
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l as -d 'Write the machine\'s definition for this hypervisor [default: its own, adjusted to the restored disks]' -r -f -a "vmx\t'.vmx for VMware Workstation, Fusion and ESXi; disks as vmdk'
libvirt\t'Domain XML for libvirt and QEMU; disks as qcow2'
ovf\t'.ovf and its manifest, to be imported elsewhere; disks as vmdk-stream'
none\t'None, only the disks'"
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l format -d 'Format of restored disks [default: what the machine\'s hypervisor uses; of one disk, by the ending of the file]' -r -f -a "raw\t'The guest\'s bytes, sparse'
vmdk\t'VMDK, one growing file (monolithicSparse)'
vmdk-stream\t'VMDK, compressed for transport (streamOptimized)'
vmdk-flat\t'VMDK, a descriptor and the guest\'s bytes beside it, sparse (monolithicFlat)'
vmdk-split\t'VMDK, a descriptor and growing files of less than 2 GiB (twoGbMaxExtentSparse)'
qcow2\t'qcow2 version 3, for QEMU, libvirt, Proxmox'
vhdx\t'VHDX, dynamic, for Hyper-V'
vhd\t'VHD, dynamic, for older Hyper-V and Xen'
vhd-fixed\t'VHD, fixed size, as Azure wants it'
vdi\t'VDI, dynamic, for VirtualBox'"
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l new-identity -d 'Make it another machine, to run beside the original: new UUIDs and network addresses'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l in-place -d 'Bring an existing raw image of the same size, or a device, up to date: only what differs is written'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l overwrite -d 'Replace files that exist, or write onto a block device'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l log -d 'Where the serving process writes what goes wrong [default: $XDG_STATE_HOME/abbild/mount.log]' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l foreground -d 'Serve in this process, until it is unmounted or interrupted'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l allow-other -d 'Let other users look, as far as the modes of the guest\'s files let them'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l serve -d 'This is the serving process'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand mount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l lazy -d 'Also while it is in use: it is gone at once, and ends with its last user'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand umount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s l -l long -d 'Also mode, number of names, owner, group, size, time, and where links lead'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s a -l all -d 'Also names that begin with a dot'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s R -l recursive -d 'Also what is in folders below'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s d -l directory -d 'Folders themselves, not what is in them'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s n -l numeric -d 'Numbers of owners and groups instead of the guest\'s names'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l volumes -d 'Show the volumes: partitions, logical volumes, and what is on them'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l stream -d 'A named stream instead of the content (NTFS)' -r
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand cat" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand cp" -s r -l recursive -d 'Copy folders with all that is in them'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l overwrite -d 'Replace files that exist'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l tar -d 'Write a tar archive to stdout; folders are taken with all that is in them'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand cp" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand find" -l name -d 'The name fits this pattern' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l iname -d 'The same, with A and a alike' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l path -d 'The path fits this pattern, as it stands behind the backup\'s name: \'/etc/*.conf\'' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l type -d 'It is of this kind' -r -f -a "f\t'File with content'
d\t'Directory'
l\t'Symbolic link'
b\t'Block device'
c\t'Character device'
p\t'Named pipe'
s\t'Socket'"
complete -c abbild -n "__fish_abbild_using_subcommand find" -l size -d 'It has more (+10M), less (-4k) or just so many bytes' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l newer -d 'Its content changed then or later: 2026-11-20, 2026-11-20T02:15, or so long ago: 7d, 12h, 30min' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l older -d 'Its content changed before that' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l mtime -d 'Its content changed less (-7) or more (+7) than so many days ago' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l owner -d 'It belongs to this user of the guest, by name or number' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l max-depth -d 'Go so many folders down at most' -r
complete -c abbild -n "__fish_abbild_using_subcommand find" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand find" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand find" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand find" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand find" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand find" -s 0 -l null -d 'End each name with a zero byte, and change nothing in it: for xargs -0'
complete -c abbild -n "__fish_abbild_using_subcommand find" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand find" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand find" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand find" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand find" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand find" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l content -d 'Compare contents: of files whose metadata differ, or of all' -r -f -a "changed\t'Of files whose metadata differ'
all\t'Of all files'"
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l raw -d 'Read an image file as raw, whatever format its first bytes say'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-last -d 'Keep the newest N backups of each machine' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-hourly -d 'Keep the newest backup of each of the newest N hours that have one' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-daily -d 'Keep the newest backup of each of the newest N days that have one' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-weekly -d 'Keep the newest backup of each of the newest N weeks that have one' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-monthly -d 'Keep the newest backup of each of the newest N months that have one' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-yearly -d 'Keep the newest backup of each of the newest N years that have one' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-within -d 'Keep all that are not older than this before the machine\'s newest, such as 30d or 1y6mo' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l keep-tag -d 'Besides what the other rules keep, keep all backups with this tag; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l tag -d 'Restrict the rules to backups with this tag; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l group-by -d 'Whether a period\'s newest backup is that of a machine, or of a machine with the same tags' -r -f -a "machine\t'The backups of a machine'
machine\,tag\t'The backups of a machine with the same tags'"
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l min-age -d 'Forget nothing younger than this, whatever the rules say, such as 7d' -r
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l newest-too -d 'Also forget a machine\'s newest backup, if it is named'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l undo -d 'Bring forgotten backups back'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l all -d 'Bring all forgotten backups back'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l dry-run -d 'Show what would be done, and do nothing'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand forget" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l reason -d 'Why, shown wherever the backup is' -r
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l remove -d 'Unpin the backups'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand pin" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l max-unused -d 'Leave at most this share of waste in the packs that stay' -r
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l dry-run -d 'Show what would be freed, and do nothing'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l to -d 'Folder of the repository to copy to' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l to-key-file -d 'Key file that opens the repository to copy to' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l to-password-file -d 'File whose first line is the passphrase of the repository to copy to' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l to-password-command -d 'Shell command that prints the passphrase of the repository to copy to' -r
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l machine -d 'Only backups of this machine; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l tag -d 'Only backups with this tag; may be given several times' -r
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l latest -d 'Only the newest backup of each machine'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l newer -d 'Only backups newer than every copy of their machine that is there'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l verify -d 'Read each copy back and compare it with the backup before it is reported'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l dry-run -d 'Show what would be copied, and copy nothing'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand copy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand check" -l read-data -d 'Also read the data of all packs, or of this share of them, by number or size' -r
complete -c abbild -n "__fish_abbild_using_subcommand check" -l older-than -d 'Read only data that was not verified for so long (30d, 12h)' -r
complete -c abbild -n "__fish_abbild_using_subcommand check" -l parity -d 'Have a recovery record of this share of its length made for every pack, present and future' -r
complete -c abbild -n "__fish_abbild_using_subcommand check" -l from -d 'Folder of a second repository to take from what is lost' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand check" -l from-key-file -d 'Key file that opens the second repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand check" -l from-password-file -d 'File whose first line is the passphrase of the second repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand check" -l from-password-command -d 'Shell command that prints the passphrase of the second repository' -r
complete -c abbild -n "__fish_abbild_using_subcommand check" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand check" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand check" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand check" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand check" -l scrub -d 'Compare every stored byte with its checksums; needs no key'
complete -c abbild -n "__fish_abbild_using_subcommand check" -l repair -d 'Repair what can be repaired; nothing is deleted'
complete -c abbild -n "__fish_abbild_using_subcommand check" -l accept-store -d 'Take the store as it is now for the right one, whatever this host remembers of it: after it was restored from a copy'
complete -c abbild -n "__fish_abbild_using_subcommand check" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand check" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand check" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand check" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l allow-folder -d 'Also open parent images in this folder; may be given several times' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l map -d 'Also list which layer stores what'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -f -a "rebuild" -d 'Forget the index cache and build it anew from the repository'
complete -c abbild -n "__fish_abbild_using_subcommand index; and not __fish_seen_subcommand_from rebuild help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from rebuild" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from help" -f -a "rebuild" -d 'Forget the index cache and build it anew from the repository'
complete -c abbild -n "__fish_abbild_using_subcommand index; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "list" -d 'List the keys that open the repository; needs none of them'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "add" -d 'Add a key file or a passphrase'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "remove" -d 'Remove a key'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "passwd" -d 'Change the passphrase that the repository is opened with'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "rotate" -d 'Give the repository a new key, and take all others away: they open nothing that is stored from then on'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "export" -d 'Write the key as a short text that can be printed and typed in again'
complete -c abbild -n "__fish_abbild_using_subcommand key; and not __fish_seen_subcommand_from list add remove passwd rotate export help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l new-key-file -d 'A key file; it is made if it does not exist' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l new-password-file -d 'The passphrase in the first line of this file' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l label -d 'A name for the key, to tell keys apart later' -r
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l passphrase -d 'A passphrase, asked for twice'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l new-password-file -d 'Take the new passphrase from the first line of this file instead of asking' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from passwd" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l new-key-file -d 'A key file; it is made if it does not exist' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l new-password-file -d 'The passphrase in the first line of this file' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l label -d 'A name for the key, to tell keys apart later' -r
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l passphrase -d 'A passphrase, asked for twice'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l yes -d 'Take the keys away; without it the command only says which these are'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l to -d 'Write to this new file instead of stdout' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "list" -d 'List the keys that open the repository; needs none of them'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a key file or a passphrase'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Remove a key'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "passwd" -d 'Change the passphrase that the repository is opened with'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "rotate" -d 'Give the repository a new key, and take all others away: they open nothing that is stored from then on'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "export" -d 'Write the key as a short text that can be printed and typed in again'
complete -c abbild -n "__fish_abbild_using_subcommand key; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand completions" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand completions" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand completions" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand version" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand version" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand version" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand version" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand version" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand version" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand version" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand version" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand version" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l repo -d 'Folder of the repository' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l key-file -d 'Key file that opens the repository' -r -F
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l cache-dir -d 'Folder of the index cache, on a local disk [default: $XDG_CACHE_HOME/abbild/REPOSITORY-ID]' -r -f -a "(__fish_complete_directories)"
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l color -d 'When to colour messages' -r -f -a "auto\t'On a terminal'
always\t'Always'
never\t'Never'"
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l json -d 'Print the result as JSON on stdout'
complete -c abbild -n "__fish_abbild_using_subcommand generate" -s q -l quiet -d 'Print no progress and nothing on success; warnings and errors stay'
complete -c abbild -n "__fish_abbild_using_subcommand generate" -s v -l verbose -d 'Tell each step in plain lines'
complete -c abbild -n "__fish_abbild_using_subcommand generate" -l no-progress -d 'Draw no progress bar'
complete -c abbild -n "__fish_abbild_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "init" -d 'Create a repository'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "backup" -d 'Back up machines'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "list" -d 'List backups'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "show" -d 'Show all that is known of a backup'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "stats" -d 'Show what the repository holds, what each machine costs there, and how it grows'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "restore" -d 'Restore a machine, or one of its disks'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "mount" -d 'Show backups as folders: their disks, and the files of their guests'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "umount" -d 'End a mount'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "ls" -d 'List files in guests'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "cat" -d 'Print files in guests'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "cp" -d 'Copy files out of guests'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "find" -d 'Search files in guests'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "diff" -d 'Show which files differ between two backups'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "forget" -d 'Forget backups that need not be kept, and bring them back'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "pin" -d 'Keep backups from being forgotten, and list those that are pinned'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "prune" -d 'Give back the space that nothing needs'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "copy" -d 'Copy backups to a second repository, those that are not there yet'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "check" -d 'Check whether every backup is whole'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "inspect" -d 'Describe a disk image, and what is wrong with it'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "index" -d 'Maintain the index cache'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "key" -d 'Manage who can open the repository'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "completions" -d 'Print completions for a shell'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "version" -d 'Print the version'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "generate" -d 'Write the manual pages and completions, as they are kept in the source tree'
complete -c abbild -n "__fish_abbild_using_subcommand help; and not __fish_seen_subcommand_from init backup list show stats restore mount umount ls cat cp find diff forget pin prune copy check inspect index key completions version generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from index" -f -a "rebuild" -d 'Forget the index cache and build it anew from the repository'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "list" -d 'List the keys that open the repository; needs none of them'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "add" -d 'Add a key file or a passphrase'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "remove" -d 'Remove a key'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "passwd" -d 'Change the passphrase that the repository is opened with'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "rotate" -d 'Give the repository a new key, and take all others away: they open nothing that is stored from then on'
complete -c abbild -n "__fish_abbild_using_subcommand help; and __fish_seen_subcommand_from key" -f -a "export" -d 'Write the key as a short text that can be printed and typed in again'
