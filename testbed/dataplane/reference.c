// What our packet functions are measured against: a stateful firewall and a load balancer on DPDK's own libraries, rte_hash for connections
// and librte_acl for rules, written to be fast and to decide exactly what ours decide of the fixture's frames.
//
//   reference DIR [EAL arguments]
//
// reads commands on stdin and answers each with one line of JSON: `load CASE` takes DIR/CASE.rules and DIR/CASE.frames and
// passes DIR/CASE.warm once; `round N` passes N frames and says how many of them a second of the thread's CPU time would
// take, and their verdicts. `floor N` only moves the frames. The shapes of the files: examples/dataplane-bench/fixture.rs.
//
// A burst is handled in stages: all headers, all keys together in one look-up, then state and rewrite; what is new is
// classified together. Times are virtual, so that connections age as fast as frames come.

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_common.h>
#include <rte_eal.h>
#include <rte_ether.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_ip.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>
#include <rte_tcp.h>

#define BURST 64
#define BURSTS 8 // of buffers that are filled in turn
#define MAX_RULES (1 << 17)
#define MAX_SERVICES 8
#define MAX_BACKENDS 1000
#define CHOICES 65537

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
enum { ANSWERED = 1, ESTABLISHED = 2, FIN_INITIATOR = 4, FIN_RESPONDER = 8, RESET = 16 };
enum { FINS = FIN_INITIATOR | FIN_RESPONDER };
enum { CONFIRMED = ESTABLISHED, UNCONFIRMED_MS = 30000 };
enum { HANDSHAKE_MS = 30000, HALF_CLOSED_MS = 120000, CLOSING_MS = 10000 };

struct key {
    uint32_t near, far, ports, protocol;
} __rte_aligned(16);

struct connection {
    struct key key;
    uint32_t last_ms, rule; // or its backend, with the service in the high half
    uint8_t flags, live;
    uint8_t client[6]; // its client's address, when it is balanced
} __rte_aligned(32);

struct service {
    uint32_t address; // as in a frame
    uint16_t port;
    uint8_t protocol;
    uint64_t frames, opened;
};

struct backend {
    uint8_t address[6];
    uint64_t frames, opened;
};

struct flow {
    uint8_t protocol;
    uint8_t pad[3];
    uint32_t source, destination;
    uint16_t source_port, destination_port;
};

RTE_ACL_RULE_DEF(acl_rule, 5);

static const struct rte_acl_field_def FIELDS[5] = {
    {RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, offsetof(struct flow, protocol)},
    {RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, offsetof(struct flow, source)},
    {RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, offsetof(struct flow, destination)},
    {RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, offsetof(struct flow, source_port)},
    {RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, offsetof(struct flow, destination_port)},
};

struct frame {
    const uint8_t *bytes;
    uint16_t length, side;
};

struct trace {
    struct frame *frames;
    uint32_t count;
    uint8_t *bytes;
};

static struct {
    struct rte_hash *table;
    struct connection *connections;
    uint32_t limit, *free, free_count;
    uint32_t *next, *due_ms; // of the queues of those that are looked at for their age, TCP's and the others'
    uint32_t oldest[2], newest[2]; // 0: none
    struct rte_acl_ctx *rules;
    uint8_t *allow;
    uint64_t *hits;
    struct service services[MAX_SERVICES];
    struct backend *backends;
    uint32_t service_count, backend_count;
    uint16_t choice[CHOICES]; // of a backend, by a hash
    uint32_t tcp_ms, other_ms;
    uint64_t frame_ns;
    struct trace trace;
    uint32_t at;
    uint64_t now_ns;
} it;

static uint64_t passed, dropped;

static void fail(const char *what) {
    printf("{\"error\":\"%s\"}\n", what);
    exit(1);
}

static uint32_t hash(const void *key, uint32_t length, uint32_t seed) {
    const uint64_t *words = key;
    (void)length;
    return crc32c_sse42_u64(words[1], crc32c_sse42_u64(words[0], seed));
}

// The headers of a frame: false if it is none that may pass.
static inline bool parse(const uint8_t *frame, uint16_t length, uint16_t side, struct key *key, uint8_t *flags) {
    const struct rte_ether_hdr *ethernet = (const void *)frame;
    const struct rte_ipv4_hdr *ip = (const void *)(frame + 14);
    if (unlikely(ethernet->ether_type != RTE_BE16(RTE_ETHER_TYPE_IPV4) || ip->version_ihl != 0x45 ||
                 (ip->fragment_offset & RTE_BE16(0x3fff))))
        return false;
    uint16_t total = rte_be_to_cpu_16(ip->total_length);
    uint8_t protocol = ip->next_proto_id;
    bool tcp = protocol == 6;
    if (unlikely(!(tcp || protocol == 17) || total < (tcp ? 40 : 28) || total + 14 > length))
        return false;
    uint32_t words[5];
    memcpy(words, ip, sizeof words);
    uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    if (unlikely(sum != 0xffff))
        return false;
    uint32_t ports;
    memcpy(&ports, frame + 34, sizeof ports);
    *flags = tcp ? frame[47] : 0;
    *key = side == 0 ? (struct key){ip->src_addr, ip->dst_addr, ports, protocol}
                     : (struct key){ip->dst_addr, ip->src_addr, ports << 16 | ports >> 16, protocol};
    return true;
}

static inline uint32_t lifetime(const struct connection *c) {
    uint32_t tcp = it.tcp_ms;
    if (c->key.protocol != 6)
        return it.other_ms;
    if ((c->flags & RESET) || (c->flags & FINS) == FINS)
        return RTE_MIN(CLOSING_MS, tcp);
    if (!(c->flags & ESTABLISHED))
        return RTE_MIN(HANDSHAKE_MS, tcp);
    return c->flags & FINS ? RTE_MIN(HALF_CLOSED_MS, tcp) : tcp;
}

static inline bool expired(const struct connection *c, uint32_t now_ms) {
    return now_ms - c->last_ms > lifetime(c);
}

static inline uint32_t balanced_lifetime(const struct connection *c) {
    if ((c->flags & RESET) || (c->flags & FINS) == FINS)
        return RTE_MIN(CLOSING_MS, it.tcp_ms);
    return c->flags & CONFIRMED ? it.tcp_ms : RTE_MIN(UNCONFIRMED_MS, it.tcp_ms);
}

static uint32_t any_lifetime(const struct connection *c) {
    return it.service_count ? balanced_lifetime(c) : lifetime(c);
}

static void append(uint32_t slot) {
    const struct connection *c = &it.connections[slot];
    int queue = c->key.protocol == 6;
    it.next[slot] = 0;
    it.due_ms[slot] = c->last_ms + any_lifetime(c);
    if (it.newest[queue])
        it.next[it.newest[queue]] = slot;
    else
        it.oldest[queue] = slot;
    it.newest[queue] = slot;
}

// Looks at the oldest while they are due, at no more than came as frames, and one.
static void age_queue(int queue, uint32_t now_ms, int frames) {
    for (int i = 0; i <= frames && it.oldest[queue]; i++) {
        uint32_t slot = it.oldest[queue];
        struct connection *c = &it.connections[slot];
        if ((int32_t)(now_ms - it.due_ms[slot]) <= 0)
            return;
        it.oldest[queue] = it.next[slot];
        if (!it.oldest[queue])
            it.newest[queue] = 0;
        if (c->live && now_ms - c->last_ms <= any_lifetime(c)) {
            append(slot);
            continue;
        }
        if (c->live)
            rte_hash_del_key(it.table, &c->key);
        c->live = 0;
        it.free[it.free_count++] = slot;
    }
}

static void age(uint32_t now_ms, int frames) {
    age_queue(0, now_ms, frames);
    age_queue(1, now_ms, frames);
}

// A TCP segment of a connection; false: it is dropped.
static inline bool segment(struct connection *c, uint8_t flags, bool initiator) {
    if (likely((flags & (SYN | RST | FIN)) == 0 && (c->flags & (ESTABLISHED | RESET)) == ESTABLISHED))
        return true;
    if (flags & RST) {
        c->flags |= RESET;
        return true;
    }
    if (c->flags & RESET)
        return false;
    if ((flags & (SYN | ACK)) == SYN)
        return initiator;
    if (flags & SYN) {
        if (initiator)
            return false;
        c->flags |= ANSWERED;
        return true;
    }
    if (!(c->flags & ANSWERED))
        return !initiator;
    if (flags & FIN)
        c->flags |= initiator ? FIN_INITIATOR : FIN_RESPONDER;
    if (initiator)
        c->flags |= ESTABLISHED;
    return true;
}

// New connections of a burst, classified together.
static void open_all(const struct key *keys, const uint8_t *flags, const uint8_t *which, uint32_t count, uint32_t now_ms) {
    struct flow flows[BURST];
    const uint8_t *data[BURST];
    uint32_t results[BURST], asked[BURST], n = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct key *k = &keys[which[i]];
        if (k->protocol == 6 && (flags[which[i]] & (SYN | ACK)) != SYN) {
            dropped++;
            continue;
        }
        flows[n] = (struct flow){k->protocol, {0}, k->near, k->far, k->ports & 0xffff, k->ports >> 16};
        data[n] = (const uint8_t *)&flows[n];
        asked[n++] = which[i];
    }
    if (n == 0)
        return;
    rte_acl_classify(it.rules, data, results, n, 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t rule = results[i] - 1;
        if (results[i] == 0 || !it.allow[rule] || it.free_count == 0) {
            dropped++;
            continue;
        }
        // Another frame of the burst may have opened it.
        void *known;
        const struct key *key = &keys[asked[i]];
        if (rte_hash_lookup_data(it.table, key, &known) < 0) {
            uint32_t slot = it.free[--it.free_count];
            if (rte_hash_add_key_data(it.table, key, (void *)(uintptr_t)slot) != 0) {
                it.free_count++;
                dropped++;
                continue;
            }
            it.connections[slot] = (struct connection){.key = *key, .last_ms = now_ms, .rule = rule, .live = 1};
            append(slot);
        }
        it.hits[rule]++;
        passed++;
    }
}

static void burst(struct rte_mbuf **frames, uint16_t side, int count, uint32_t now_ms) {
    struct key keys[BURST];
    const void *pointers[BURST];
    uint8_t flags[BURST], fresh[BURST];
    uint32_t n = 0, news = 0;
    for (int i = 0; i < count; i++) {
        bool good = parse(rte_pktmbuf_mtod(frames[i], const uint8_t *), rte_pktmbuf_data_len(frames[i]), side, &keys[n], &flags[n]);
        pointers[n] = &keys[n];
        n += good;
        dropped += !good;
    }
    if (n == 0)
        return;
    uint64_t found = 0;
    void *data[BURST];
    rte_hash_lookup_bulk_data(it.table, pointers, n, &found, data);
    for (uint32_t i = 0; i < n; i++)
        if (likely(found >> i & 1))
            rte_prefetch0(&it.connections[(uintptr_t)data[i]]);
    for (uint32_t i = 0; i < n; i++) {
        if (unlikely(!(found >> i & 1))) {
            fresh[news++] = i;
            continue;
        }
        struct connection *c = &it.connections[(uintptr_t)data[i]];
        if (unlikely(expired(c, now_ms))) {
            // Taken out of the table now; its slot when it is the oldest.
            rte_hash_del_key(it.table, &c->key);
            c->live = 0;
            fresh[news++] = i;
            continue;
        }
        if (keys[i].protocol == 6 && unlikely(!segment(c, flags[i], side == 0))) {
            dropped++;
            continue;
        }
        c->last_ms = now_ms;
        it.hits[c->rule]++;
        passed++;
    }
    if (news)
        open_all(keys, flags, fresh, news, now_ms);
}

static const uint8_t OWN[6] = {2, 0, 0, 0, 0, 2}; // our address at both ports

static inline uint8_t closed_by(uint8_t flags, uint8_t fin) {
    return (flags & FIN ? fin : 0) | (flags & RST ? RESET : 0);
}

// Sends a client's frame to its connection's backend.
static inline void dispatch(uint8_t *frame, const struct connection *c) {
    struct backend *backend = &it.backends[c->rule & 0xffff];
    backend->frames++;
    it.services[c->rule >> 16].frames++;
    memcpy(frame, backend->address, 6);
    memcpy(frame + 6, OWN, 6);
    passed++;
}

// A client's frame of no connection.
static void open_balanced(uint8_t *frame, const struct key *key, uint8_t flags, uint32_t now_ms) {
    void *known;
    // Another frame of the burst may have opened it.
    if (rte_hash_lookup_data(it.table, key, &known) >= 0) {
        dispatch(frame, &it.connections[(uintptr_t)known]);
        return;
    }
    uint32_t service = 0;
    while (service < it.service_count &&
           !(it.services[service].address == key->far && it.services[service].port == key->ports >> 16 &&
             it.services[service].protocol == key->protocol))
        service++;
    if (service == it.service_count || it.free_count == 0) {
        dropped++;
        return;
    }
    uint32_t slot = it.free[--it.free_count];
    if (rte_hash_add_key_data(it.table, key, (void *)(uintptr_t)slot) != 0) {
        it.free_count++;
        dropped++;
        return;
    }
    uint16_t backend = it.choice[hash(key, sizeof *key, 0) % CHOICES];
    struct connection *c = &it.connections[slot];
    *c = (struct connection){.key = *key, .last_ms = now_ms, .rule = service << 16 | backend, .live = 1};
    c->flags = closed_by(flags, FIN_INITIATOR);
    memcpy(c->client, frame + 6, 6);
    append(slot);
    it.services[service].opened++;
    it.backends[backend].opened++;
    dispatch(frame, c);
}

// The load balancer at layer 2: clients at side 0, backends, which answer through it, at side 1.
static void balance(struct rte_mbuf **frames, uint16_t side, int count, uint32_t now_ms) {
    struct key keys[BURST];
    const void *pointers[BURST];
    uint8_t flags[BURST], *bytes[BURST];
    uint32_t n = 0;
    for (int i = 0; i < count; i++) {
        bytes[n] = rte_pktmbuf_mtod(frames[i], uint8_t *);
        bool good = memcmp(bytes[n], OWN, 6) == 0 && !(bytes[n][6] & 1) &&
                    parse(bytes[n], rte_pktmbuf_data_len(frames[i]), side, &keys[n], &flags[n]);
        pointers[n] = &keys[n];
        n += good;
        dropped += !good;
    }
    if (n == 0)
        return;
    uint64_t found = 0;
    void *data[BURST];
    rte_hash_lookup_bulk_data(it.table, pointers, n, &found, data);
    for (uint32_t i = 0; i < n; i++)
        if (likely(found >> i & 1))
            rte_prefetch0(&it.connections[(uintptr_t)data[i]]);
    for (uint32_t i = 0; i < n; i++) {
        struct connection *c = &it.connections[(uintptr_t)data[i]];
        bool known = found >> i & 1;
        bool closing = known && ((c->flags & RESET) || (c->flags & FINS) == FINS);
        bool again = closing && side == 0 && (flags[i] & (SYN | ACK)) == SYN;
        if (unlikely(known && (again || now_ms - c->last_ms > balanced_lifetime(c)))) {
            rte_hash_del_key(it.table, &c->key);
            c->live = 0;
            known = false;
        }
        if (unlikely(!known)) {
            if (side == 0)
                open_balanced(bytes[i], &keys[i], flags[i], now_ms);
            else
                dropped++;
            continue;
        }
        c->last_ms = now_ms;
        if (side == 0) {
            uint8_t confirmed = (c->flags & ANSWERED) && !(flags[i] & (SYN | RST)) ? CONFIRMED : 0;
            c->flags |= confirmed | closed_by(flags[i], FIN_INITIATOR);
            memcpy(c->client, bytes[i] + 6, 6);
            dispatch(bytes[i], c);
        } else {
            c->flags |= ANSWERED | (keys[i].protocol == 6 ? 0 : CONFIRMED) | closed_by(flags[i], FIN_RESPONDER);
            memcpy(bytes[i], c->client, 6);
            memcpy(bytes[i] + 6, OWN, 6);
            passed++;
        }
    }
}

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct rte_mbuf *buffers[BURSTS][BURST];

// Moves the next frames into packet buffers as a device would, and passes them on.
static double pass(const struct trace *trace, uint64_t count, uint32_t *at, bool decide) {
    double began = cpu();
    uint32_t group = 0;
    for (uint64_t done = 0; done < count;) {
        struct rte_mbuf **frames = buffers[group];
        const struct frame *of = &trace->frames[*at];
        int n = 0;
        while (n < BURST && *at < trace->count && trace->frames[*at].side == of->side) {
            const struct frame *frame = &trace->frames[(*at)++];
            struct rte_mbuf *buffer = frames[n++];
            buffer->data_off = RTE_PKTMBUF_HEADROOM;
            buffer->data_len = frame->length;
            buffer->pkt_len = frame->length;
            memcpy(rte_pktmbuf_mtod(buffer, uint8_t *), frame->bytes, frame->length);
        }
        group = (group + 1) % BURSTS;
        if (*at == trace->count)
            *at = 0;
        if (decide) {
            it.now_ns += (uint64_t)n * it.frame_ns;
            uint32_t now_ms = it.now_ns / 1000000;
            if (it.service_count)
                balance(frames, of->side, n, now_ms);
            else
                burst(frames, of->side, n, now_ms);
            age(now_ms, n);
        } else {
            __asm__ volatile("" ::: "memory");
        }
        done += n;
    }
    return cpu() - began;
}

static struct trace read_trace(const char *path) {
    FILE *file = fopen(path, "rb");
    struct trace out = {0};
    if (!file || fread(&out.count, 4, 1, file) != 1)
        fail("no frames");
    long begin = ftell(file);
    fseek(file, 0, SEEK_END);
    size_t size = ftell(file) - begin;
    fseek(file, begin, SEEK_SET);
    out.bytes = malloc(size);
    out.frames = calloc(out.count, sizeof *out.frames);
    if (!out.bytes || !out.frames || fread(out.bytes, 1, size, file) != size)
        fail("frames cut short");
    fclose(file);
    const uint8_t *p = out.bytes;
    for (uint32_t i = 0; i < out.count; i++) {
        memcpy(&out.frames[i].length, p, 2);
        memcpy(&out.frames[i].side, p + 2, 2);
        out.frames[i].bytes = p + 4;
        p += 4 + out.frames[i].length;
    }
    return out;
}

static uint32_t address(const char *text) {
    unsigned a, b, c, d;
    if (sscanf(text, "%u.%u.%u.%u", &a, &b, &c, &d) != 4)
        fail("an address");
    return a << 24 | b << 16 | c << 8 | d;
}

static void read_rules(const char *path) {
    FILE *file = fopen(path, "r");
    char source[32], destination[32], action[8], line[256];
    unsigned sl, dl, s0, s1, d0, d1, protocol;
    uint32_t n = 0;
    if (!file || fscanf(file, "connections %u tcp_ms %u other_ms %u frame_ns %" SCNu64 "\n", &it.limit, &it.tcp_ms, &it.other_ms, &it.frame_ns) != 4)
        fail("no rules");
    struct rte_acl_param parameter = {.name = "rules", .socket_id = SOCKET_ID_ANY, .rule_size = RTE_ACL_RULE_SZ(5), .max_rule_num = MAX_RULES};
    it.rules = rte_acl_create(&parameter);
    it.allow = calloc(MAX_RULES, 1);
    it.hits = calloc(MAX_RULES, sizeof *it.hits);
    it.backends = calloc(MAX_BACKENDS, sizeof *it.backends);
    while (fgets(line, sizeof line, file)) {
        uint8_t *b = it.backends[it.backend_count].address;
        if (sscanf(line, "vip %31s %u %u", source, &d0, &protocol) == 3) {
            if (it.service_count == MAX_SERVICES)
                fail("too many services");
            it.services[it.service_count++] =
                (struct service){rte_cpu_to_be_32(address(source)), rte_cpu_to_be_16(d0), protocol, 0, 0};
            continue;
        }
        if (sscanf(line, "backend %hhx:%hhx:%hhx:%hhx:%hhx:%hhx", b, b + 1, b + 2, b + 3, b + 4, b + 5) == 6) {
            if (++it.backend_count == MAX_BACKENDS)
                fail("too many backends");
            continue;
        }
        if (sscanf(line, "%31[^/]/%u %31[^/]/%u %u-%u %u-%u %u %7s", source, &sl, destination, &dl, &s0, &s1, &d0, &d1, &protocol, action) != 10)
            fail("a rule");
        struct acl_rule rule = {.data = {.category_mask = 1, .priority = RTE_ACL_MAX_PRIORITY - (int32_t)n, .userdata = n + 1}};
        rule.field[0].value.u8 = protocol;
        rule.field[0].mask_range.u8 = 0xff;
        rule.field[1].value.u32 = address(source);
        rule.field[1].mask_range.u32 = sl;
        rule.field[2].value.u32 = address(destination);
        rule.field[2].mask_range.u32 = dl;
        rule.field[3].value.u16 = s0;
        rule.field[3].mask_range.u16 = s1;
        rule.field[4].value.u16 = d0;
        rule.field[4].mask_range.u16 = d1;
        it.allow[n++] = action[0] == 'a';
        if (n >= MAX_RULES || rte_acl_add_rules(it.rules, (struct rte_acl_rule *)&rule, 1) != 0)
            fail("too many rules");
    }
    fclose(file);
    for (uint32_t i = 0; i < CHOICES && it.backend_count; i++)
        it.choice[i] = i % it.backend_count;
    if (n == 0)
        return;
    struct rte_acl_config config = {.num_categories = 1, .num_fields = 5};
    memcpy(config.defs, FIELDS, sizeof FIELDS);
    if (rte_acl_build(it.rules, &config) != 0)
        fail("rules that librte_acl does not build");
}

static void forget(void) {
    rte_hash_free(it.table);
    rte_free(it.connections);
    rte_acl_free(it.rules);
    free(it.free);
    free(it.next);
    free(it.due_ms);
    free(it.allow);
    free(it.hits);
    free(it.backends);
    free(it.trace.frames);
    free(it.trace.bytes);
    memset(&it, 0, sizeof it);
}

static void load(const char *directory, const char *name) {
    char path[4096];
    forget();
    snprintf(path, sizeof path, "%s/%s.rules", directory, name);
    read_rules(path);
    struct rte_hash_parameters parameters = {
        .name = "connections",
        .entries = RTE_MAX(it.limit + it.limit / 2, 1024u),
        .key_len = sizeof(struct key),
        .hash_func = hash,
        .hash_func_init_val = 0x6d616e64,
        .socket_id = SOCKET_ID_ANY,
    };
    it.table = rte_hash_create(&parameters);
    it.connections = rte_zmalloc("connections", sizeof(struct connection) * ((size_t)it.limit + 1), 64);
    it.free = calloc(it.limit, sizeof *it.free);
    it.next = calloc((size_t)it.limit + 1, sizeof *it.next);
    it.due_ms = calloc((size_t)it.limit + 1, sizeof *it.due_ms);
    if (!it.table || !it.connections || !it.free || !it.next || !it.due_ms)
        fail("not enough memory: reserve huge pages");
    for (uint32_t slot = it.limit; slot > 0; slot--)
        it.free[it.free_count++] = slot;
    snprintf(path, sizeof path, "%s/%s.warm", directory, name);
    struct trace warm = read_trace(path);
    uint32_t at = 0;
    if (warm.count > 0)
        pass(&warm, warm.count, &at, true);
    free(warm.frames);
    free(warm.bytes);
    snprintf(path, sizeof path, "%s/%s.frames", directory, name);
    it.trace = read_trace(path);
    printf("{\"loaded\":\"%s\",\"connections\":%d}\n", name, rte_hash_count(it.table));
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    const char *directory = argv[1];
    argv[1] = argv[0];
    if (rte_eal_init(argc - 1, argv + 1) < 0)
        fail("DPDK does not start");
    struct rte_mempool *pool = rte_pktmbuf_pool_create("buffers", BURSTS * BURST + BURST - 1, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (!pool || rte_pktmbuf_alloc_bulk(pool, &buffers[0][0], BURSTS * BURST) != 0)
        fail("no packet buffers");
    char line[256], name[200];
    unsigned long long count;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "load %199s", name) == 1) {
            load(directory, name);
        } else if (sscanf(line, "round %llu", &count) == 1 || sscanf(line, "floor %llu", &count) == 1) {
            passed = dropped = 0;
            double took = pass(&it.trace, count, &it.at, line[0] == 'r');
            printf("{\"mpps\":%.4f,\"passed\":%" PRIu64 ",\"dropped\":%" PRIu64 "}\n", count / took / 1e6, passed, dropped);
        } else {
            fail("a command that nobody knows");
        }
    }
    return 0;
}
