"""Stands in for neutron-openvswitch-agent and neutron-sriov-nic-agent on every compute host.

It speaks neutron's own agent RPC: reports that the agents are alive, and marks a port up once it is bound to one of the
hosts. There is no data plane.
"""
import eventlet

eventlet.monkey_patch()

import os
import sys
import time

import oslo_messaging
from neutron.agent import rpc as agent_rpc
from neutron.common import config as common_config
from neutron.conf.agent import common as agent_conf
from neutron_lib import constants, context
from neutron_lib.agent import topics
from oslo_config import cfg
from oslo_log import log as logging

LOG = logging.getLogger("agents")
HOSTS = os.environ["TESTBED_HOSTS"].split(",")
REPORT_EVERY_S = 20
# A call that the server did not hear, because it was not there yet, is lost: the default is a minute.
ANSWER_S = 5
DIRECT = ("direct", "macvtap")


def reports(host, address):
    def report(binary, kind, **configurations):
        return dict(binary=binary, host=host, topic=constants.L2_AGENT_TOPIC, agent_type=kind, start_flag=True,
                    configurations=dict(devices=0, **configurations))

    yield report("neutron-openvswitch-agent", constants.AGENT_TYPE_OVS,
                 bridge_mappings={"physnet1": "br-ex", "physnet3": "br-wan"},
                 tunnel_types=["vxlan"], tunneling_ip=address, l2_population=False, datapath_type="system",
                 ovs_capabilities=dict(datapath_types=["netdev", "system"], iface_types=[]),
                 vhostuser_socket_dir="/var/run/openvswitch", integration_bridge="br-int",
                 in_distributed_mode=False, ovs_hybrid_plug=False, log_agent_heartbeats=False)
    yield report("neutron-sriov-nic-agent", constants.AGENT_TYPE_NIC_SWITCH,
                 device_mappings={"physnet2": ["ens1f0", "ens2f0", "ens3f0"]}, extensions=[],
                 resource_provider_bandwidths={})


class Endpoint:
    target = oslo_messaging.Target(version="1.4")

    def __init__(self):
        self.plugin = agent_rpc.PluginApi(topics.PLUGIN)

    def port_update(self, _context, **kw):
        eventlet.spawn_n(self.wire, kw.get("port") or {})

    def wire(self, port):
        host = port.get("binding:host_id")
        if host not in HOSTS or port.get("binding:vif_type") in (None, "unbound", "binding_failed"):
            return
        if port.get("status") == "ACTIVE" or not port.get("admin_state_up", True):
            return
        kind = "nic-switch-agent" if port.get("binding:vnic_type") in DIRECT else "ovs-agent"
        agent, ctx = "%s-%s" % (kind, host), context.get_admin_context_without_session()
        try:
            found = self.plugin.get_devices_details_list_and_failed_devices(ctx, [port["id"]], agent, host)
            up = [d["device"] for d in found["devices"] if d.get("port_id")]
            if up:
                self.plugin.update_device_list(ctx, up, [], agent, host)
        except Exception:
            LOG.exception("port %s", port.get("id"))

    def ignore(self, _context, **_kw):
        pass

    port_delete = network_update = network_delete = binding_activate = binding_deactivate = ignore


def main():
    agent_conf.register_agent_state_opts_helper(cfg.CONF)
    common_config.init(sys.argv[1:])
    logging.setup(cfg.CONF, "agents")
    ctx = context.get_admin_context_without_session()
    server = agent_rpc.PluginReportStateAPI(topics.REPORTS)
    cfg.CONF.set_override("rpc_response_timeout", ANSWER_S)
    agent_rpc.create_consumers([Endpoint()], topics.AGENT,
                               [[topics.PORT, topics.UPDATE], [topics.NETWORK, topics.UPDATE]])
    states = [s for n, host in enumerate(HOSTS, 1) for s in reports(host, "127.0.1.%d" % n)]
    while True:
        for state in states:
            try:
                server.report_state(ctx, state, use_call=True)
                state.pop("start_flag", None)
            except Exception as e:
                LOG.warning("%s %s: %s", state["host"], state["agent_type"], e)
                time.sleep(1)
        time.sleep(2 if any("start_flag" in s for s in states) else REPORT_EVERY_S)


main()
