# Tests of tenant.rego: `mandate policy test DIR`, or `opa test DIR`. They travel with the bundle, and a bundle whose
# own tests fail cannot come into force.
package mandate.tenant_test

# What the rules say, whatever this bundle's data.json has.
bounds := {"admin_ports": [22, 23, 3389], "admin_source_min_prefix": {"ipv4": 8, "ipv6": 16}}

refused(params) := {d.code |
	some d in data.mandate.tenant.deny with input as {"intent": {"action": {"vnf_params": params}}} with data.tenant as bounds
}

allow(ports, source) := {"vfw": {"rules": [{
	"id": "r", "from": "outside", "action": "allow", "protocol": 6,
	"destination_ports": ports, "source": source,
}]}}

test_every_rule_is_declared if {
	data.mandate.tenant.rules == {"no-open-admin-ports", "no-unprotected-vip", "weights-in-range"}
}

test_nothing_to_object if refused({}) == set()

test_web_is_open if refused(allow("80", "0.0.0.0/0")) == set()

test_ssh_from_anywhere if refused(allow("22", "0.0.0.0/0")) == {"ADMIN_PORT_OPEN"}

test_ssh_in_a_range if refused(allow("20-25", "::/0")) == {"ADMIN_PORT_OPEN"}

test_ssh_from_one_network if refused(allow("22", "10.0.0.0/8")) == set()

test_two_halves_are_the_whole if refused(allow("22", "128.0.0.0/1")) == {"ADMIN_PORT_OPEN"}

test_vip_without_firewall if {
	refused({"vlb": {"vips": [{"id": "web"}], "rules": []}}) == {"VIP_WITHOUT_FIREWALL"}
}

test_weights if {
	refused({"vlb": {"weights": [1, 1000]}}) == set()
	refused({"vlb": {"weights": [0]}}) == {"WEIGHT_OUT_OF_RANGE"}
	refused({"vlb": {"weights": [1001]}}) == {"WEIGHT_OUT_OF_RANGE"}
}
