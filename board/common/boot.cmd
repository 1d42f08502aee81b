# The part of the boot script that all boards share: which slot to boot.
#
# slot.txt is there only while an update is on trial (and after one was confirmed on slot B):
#   active  the slot that is known to be good
#   try     the slot on trial, or empty
#   left    how often the trial may still be booted; counted down here, before the boot
setenv active a
setenv try
setenv left 0
setenv slot_file ${kernel_addr_r}
if load ${devtype} ${devnum}:${distro_bootpart} ${slot_file} slot.txt; then
	env import -t ${slot_file} ${filesize} active try left
fi
if test "${active}" != b; then setenv active a; fi
setenv slot ${active}
if test "${try}" = a -o "${try}" = b; then
	if test ${left} -gt 0; then
		setexpr left ${left} - 1
		if env export -t ${slot_file} active try left; then
			if fatwrite ${devtype} ${devnum}:${distro_bootpart} ${slot_file} slot.txt ${filesize}; then
				setenv slot ${try}
			fi
		fi
	fi
fi
echo "LightNVR: slot ${slot} (active ${active}, trial ${try}, left ${left})"
setenv bootargs "${board_args} lightnvr.slot=${slot}"
# A slot whose kernel or initramfs cannot be read falls back to the active one by the restart.
if load ${devtype} ${devnum}:${distro_bootpart} ${kernel_addr_r} ${slot}/kernel.gz; then
	if load ${devtype} ${devnum}:${distro_bootpart} ${ramdisk_addr_r} ${slot}/initrd.zst; then
		booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${board_fdt}
	fi
fi
echo "LightNVR: slot ${slot} does not boot, restart in 5 s"
sleep 5
reset
