"""A compute host of the testbed: nova's own FakeDriver, which boots nothing, with the hardware of an NFV host.

Two NUMA cells with hugepages and dedicated CPUs; two PFs of 8 VFs each and one PF without VFs on physnet2; four VFs of
an accelerator. PCI addresses differ from host to host, so that a port bound with another host's address is noticed.
Claims, scheduling and port binding are nova's and neutron's; what is read from sysfs elsewhere is answered from here.
"""
import nova.conf
from nova import exception, objects
from nova.compute import claims  # noqa: F401  (loads before virt, or nova imports in a circle)
from nova.pci import utils as pci_utils
from nova.virt import fake, hardware
from oslo_serialization import jsonutils

CONF = nova.conf.CONF
CELLS = 2
CPUS = 32
MEMORY_MB = 131072
PAGES_1G = 16  # in each cell
PAGES_2M = 8192  # in each cell
VFS = 8  # of each PF


def number():
    return int(CONF.host[len("compute"):])


def mac(address):
    """A PF's MAC address, made of its PCI address."""
    return "3c:fd:fe:%02x:%s:00" % (number(), address.split(":")[1])


def pf_mac(address, pf_interface=False):
    if not address or not address.endswith(":00.0"):
        raise exception.PciDeviceNotFoundById(id=address)
    return mac(address)


def vf_number(address):
    return int(address[-1])


# nova reads these two from sysfs, which has no such devices.
pci_utils.get_mac_by_pci_address = pf_mac
pci_utils.get_vf_num_by_pci_address = vf_number


def device(address, product, kind, cell, **more):
    return dict(address=address, vendor_id="8086", product_id=product, status="available", dev_type=kind,
                numa_node=cell, label="label_8086_" + product,
                dev_id="pci_" + address.replace(":", "_").replace(".", "_"), **more)


def bus(base):
    return "0000:%02x" % (base + 2 * (number() - 1))


def devices():
    for cell in range(CELLS):
        at = bus(0x18 + 0x40 * cell)
        pf = at + ":00.0"
        yield device(pf, "158b", "type-PF", cell, parent_addr=None)
        for n in range(VFS):
            yield device("%s:02.%d" % (at, n), "154c", "type-VF", cell, parent_addr=pf,
                         parent_ifname="ens%df0" % (cell + 1))
    whole = bus(0x98) + ":00.0"
    yield device(whole, "158b", "type-PF", 1, parent_addr=None, mac_address=mac(whole))
    for n in range(4):
        at = bus(0x3d)
        yield device("%s:01.%d" % (at, n), "37c9", "type-VF", 0, parent_addr=at + ":00.0")


def cell(n, shared, dedicated):
    each, memory = CPUS // CELLS, MEMORY_MB // CELLS
    cpus = set(range(n * each, (n + 1) * each))
    small_kb = memory * 1024 - PAGES_1G * 1048576 - PAGES_2M * 2048
    pages = [(4, small_kb // 4), (2048, PAGES_2M), (1048576, PAGES_1G)]
    return objects.NUMACell(
        id=n, cpuset=cpus & shared, pcpuset=cpus & dedicated, memory=memory, cpu_usage=0, memory_usage=0,
        pinned_cpus=set(), socket=n, siblings=[{c, c + 1} for c in sorted(cpus) if c % 2 == 0],
        mempages=[objects.NUMAPagesTopology(size_kb=s, total=t, used=0, reserved=0) for s, t in pages],
        network_metadata=objects.NetworkMetadata(physnets=set(), tunneled=False))


class Host(fake.FakeDriver):
    vcpus = CPUS
    memory_mb = MEMORY_MB
    local_gb = 2000
    capabilities = dict(fake.FakeDriver.capabilities, supports_pcpus=True, supports_image_type_qcow2=True)

    def get_available_resource(self, nodename):
        found = super().get_available_resource(nodename)
        if found:
            shared, dedicated = hardware.get_cpu_shared_set(), hardware.get_cpu_dedicated_set()
            cells = [cell(n, shared, dedicated) for n in range(CELLS)]
            found["numa_topology"] = objects.NUMATopology(cells=cells)._to_json()
            found["pci_passthrough_devices"] = jsonutils.dumps(list(devices()))
        return found

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        super().update_provider_tree(provider_tree, nodename, allocations)
        inventory = provider_tree.data(nodename).inventory
        shared, dedicated = len(hardware.get_cpu_shared_set()), len(hardware.get_cpu_dedicated_set())
        inventory["VCPU"].update(total=shared, max_unit=shared)
        inventory["PCPU"] = dict(total=dedicated, min_unit=1, max_unit=dedicated, step_size=1, allocation_ratio=1.0,
                                 reserved=0)
        provider_tree.update_inventory(nodename, inventory)
        provider_tree.add_traits(nodename, "HW_CPU_X86_AVX2", "HW_CPU_X86_AESNI", "COMPUTE_NODE")
