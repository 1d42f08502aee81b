# Raspberry Pi 3, 4 and Zero 2 W. U-Boot's own addresses suit a kernel of 30 MB; Debian's has 52 MB when unpacked
# and would overrun the device tree. These fit below the 448 MB that a Zero 2 W leaves.
setenv kernel_addr_r 0x00200000
setenv kernel_comp_addr_r 0x0a000000
setenv kernel_comp_size 0x02000000
setenv ramdisk_addr_r 0x0e000000
# The firmware's device tree: memory, serial number and overlays are in it.
setenv board_fdt ${fdt_addr}
setenv board_args "console=tty0 console=ttyS1,115200 panic=10 quiet loglevel=4"
