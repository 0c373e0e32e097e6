# Tenant rules of the default policy bundle.
#
# Each *.rego file of a bundle stands for itself, in package mandate.tenant, and declares
#   rules  the names of all its rules, so that a verdict can list those that passed, and
#   deny   what is wrong: objects {"rule": one of rules, "code": UPPER_SNAKE_CASE, "detail": for a person}.
# Input: {"intent", "identity": {org, name, role, tenant}, "packages" by descriptor id, "usage", "time" (seconds)}.
# data.json of the bundle is `data`. There are no clocks, random numbers, files or network here.
package mandate.tenant

rules := {"no-open-admin-ports", "no-unprotected-vip", "weights-in-range"}

family(prefix) := "ipv6" if contains(prefix, ":")

family(prefix) := "ipv4" if not contains(prefix, ":")

# A source counts as known only when its prefix is at least as long as data.json asks for: one rule for everybody is
# the same as two for each half of the world. No source, or no such bound, is not narrow.
narrow(rule) if {
	length := to_number(split(rule.source, "/")[1])
	length >= data.tenant.admin_source_min_prefix[family(rule.source)]
}

first_port(ports) := to_number(split(ports, "-")[0])

last_port(ports) := to_number(split(ports, "-")[1]) if contains(ports, "-")

last_port(ports) := to_number(ports) if not contains(ports, "-")

covers(rule, _) if not rule.destination_ports

covers(rule, port) if {
	first_port(rule.destination_ports) <= port
	last_port(rule.destination_ports) >= port
}

tcp(rule) if not rule.protocol

tcp(rule) if rule.protocol == 6

# Administration from anywhere is never what a service needs.
deny contains {"rule": "no-open-admin-ports", "code": "ADMIN_PORT_OPEN", "detail": detail} if {
	some member, params in input.intent.action.vnf_params
	some rule in params.rules
	rule.action == "allow"
	rule.from == "outside"
	not narrow(rule)
	tcp(rule)
	some port in data.tenant.admin_ports
	covers(rule, port)
	detail := sprintf("rule `%s` of member %s opens port %d to any source, or to nearly any", [rule.id, member, port])
}

# A balanced service without a single firewall rule in front of it would be unreachable, or unprotected.
deny contains {"rule": "no-unprotected-vip", "code": "VIP_WITHOUT_FIREWALL", "detail": detail} if {
	some member, params in input.intent.action.vnf_params
	count(params.vips) > 0
	total := sum([count(p.rules) | some p in input.intent.action.vnf_params])
	total == 0
	detail := sprintf("member %s has services, but no member has a firewall rule", [member])
}

deny contains {"rule": "weights-in-range", "code": "WEIGHT_OUT_OF_RANGE", "detail": detail} if {
	some member, params in input.intent.action.vnf_params
	some weight in params.weights
	not weight_ok(weight)
	detail := sprintf("weight %d of member %s is not 1 to 1000", [weight, member])
}

weight_ok(weight) if {
	weight >= 1
	weight <= 1000
}
