# The tests under a real systemd, as init of a root directory that may be spoiled, as root.
# What systemd would change for the whole machine is read-only, or private.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null

mount -t sysfs -o ro sysfs /sys
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount --lazy /dev
mount -t tmpfs tmpfs /dev
mkdir /dev/pts /dev/shm
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "/dev/${device%:*}" c 1 "${device#*:}"
done
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /run

cat > /etc/systemd/system/tests.service <<'END'
[Unit]
After=network.target
[Service]
Type=oneshot
Environment=UNDER_SYSTEMD=yes PYTHONDONTWRITEBYTECODE=1
WorkingDirectory=/srv/package
StandardOutput=append:/srv/exchange/log
StandardError=inherit
ExecStart=python3 -m pytest -p no:cacheprovider tests/test_systemd.py
ExecStartPost=touch /srv/exchange/passed
ExecStopPost=systemctl poweroff --force --force
TimeoutStartSec=10min
[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable tests.service
rm /usr/sbin/policy-rc.d

# Its own part of the machine's control groups.
cat > /srv/init <<'END'
if grep --quiet name=systemd /proc/self/cgroup; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
if [ "$1" = outside ]; then
    set -- /sys/fs/cgroup /sys/fs/cgroup/systemd
    [ -e "$2" ] || set -- "$1" "$1"
    mkdir -p "$2/certbot-postfix-tests"
    echo $$ > "$2/certbot-postfix-tests/cgroup.procs"
    umount --recursive /sys/fs/cgroup
    exec unshare --cgroup sh -eu /srv/init inside
fi
exec env -i container=lxc /lib/systemd/systemd
END
exec sh -eu /srv/init outside
