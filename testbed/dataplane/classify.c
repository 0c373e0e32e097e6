// librte_acl on what the example `classify` of mandate-dataplane decided on: the same rules and connections, in bursts of 64.
//
//   cc -O3 -march=native testbed/dataplane/classify.c -o classify $(pkg-config --cflags --libs libdpdk)
//   ./classify --no-huge -m 8192 --no-pci --log-level=error --force-max-simd-bitwidth=512 -- DIR NAME...
//
// NAME is a mix and a number of rules (`nested-1000`). Answers one line each: building, nanoseconds of the thread's time for a
// connection, taken as ours are, and a sum that is the example's if all decisions are.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_common.h>
#include <rte_eal.h>

#define BURST 64
#define FLOWS (1 << 16)
#define ROUND (64 * BURST) // connections
#define ROUNDS 15
#define MAX_RULES (1 << 17)

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

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static FILE *file(const char *directory, const char *name, const char *end) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.%s", directory, name, end);
    FILE *it = fopen(path, "r");
    if (!it)
        fail(path);
    return it;
}

static uint32_t address(const char *text) {
    unsigned a, b, c, d;
    if (sscanf(text, "%u.%u.%u.%u", &a, &b, &c, &d) != 4)
        fail("an address");
    return a << 24 | b << 16 | c << 8 | d;
}

static uint32_t read_rules(struct rte_acl_ctx *to, FILE *from) {
    char source[32], destination[32], line[256];
    unsigned sl, dl, s0, s1, d0, d1, protocol;
    uint32_t n = 0;
    while (fgets(line, sizeof line, from)) {
        if (sscanf(line, "%31[^/]/%u %31[^/]/%u %u-%u %u-%u %u", source, &sl, destination, &dl, &s0, &s1, &d0, &d1, &protocol) != 9)
            fail("a rule");
        struct acl_rule rule = {.data = {.category_mask = 1, .priority = RTE_ACL_MAX_PRIORITY - (int32_t)n, .userdata = n + 1}};
        rule.field[0].value.u8 = protocol;
        rule.field[0].mask_range.u8 = protocol ? 0xff : 0;
        rule.field[1].value.u32 = address(source);
        rule.field[1].mask_range.u32 = sl;
        rule.field[2].value.u32 = address(destination);
        rule.field[2].mask_range.u32 = dl;
        rule.field[3].value.u16 = s0;
        rule.field[3].mask_range.u16 = s1;
        rule.field[4].value.u16 = d0;
        rule.field[4].mask_range.u16 = d1;
        if (++n >= MAX_RULES || rte_acl_add_rules(to, (struct rte_acl_rule *)&rule, 1) != 0)
            fail("too many rules");
    }
    return n;
}

static uint32_t words[FLOWS][4], results[FLOWS];

// From host words, as ours: the keys are part of the work.
static void pass(const struct rte_acl_ctx *rules, uint32_t from, uint32_t count) {
    for (uint32_t at = from; at < count; at += BURST) {
        struct flow flows[BURST];
        const uint8_t *data[BURST];
        uint32_t n = count - at < BURST ? count - at : BURST;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t *w = words[at + i];
            flows[i] = (struct flow){w[2], {0}, rte_cpu_to_be_32(w[0]), rte_cpu_to_be_32(w[1]), rte_cpu_to_be_16(w[3] >> 16), rte_cpu_to_be_16(w[3])};
            data[i] = (const uint8_t *)&flows[i];
        }
        rte_acl_classify(rules, data, results + at, n, 1);
    }
}

static void measure(const char *directory, const char *name) {
    struct rte_acl_param parameter = {.name = name, .socket_id = SOCKET_ID_ANY, .rule_size = RTE_ACL_RULE_SZ(5), .max_rule_num = MAX_RULES};
    struct rte_acl_ctx *rules = rte_acl_create(&parameter);
    FILE *from = file(directory, name, "rules");
    uint32_t n = read_rules(rules, from);
    fclose(from);
    from = file(directory, name, "flows");
    uint32_t count = fread(words, sizeof *words, FLOWS, from);
    fclose(from);
    struct rte_acl_config config = {.num_categories = 1, .num_fields = 5};
    memcpy(config.defs, FIELDS, sizeof FIELDS);
    double build = cpu();
    if (rte_acl_build(rules, &config) != 0)
        fail("rules that librte_acl does not build");
    build = cpu() - build;
    // Of each round the least of some, as ours.
    double ns = 0;
    for (uint32_t at = 0; at < count; at += ROUND) {
        double least = 1e9;
        for (int i = 0; i < ROUNDS; i++) {
            double began = cpu();
            pass(rules, at, RTE_MIN(at + ROUND, count));
            least = RTE_MIN(least, cpu() - began);
        }
        ns += least * 1e9 / count;
    }
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum = sum * 31 + (uint32_t)(results[i] - 1);
    printf("%-16s %7u rules, build %.1f ms, %.1f ns, sum %" PRIx64 "\n", name, n, build * 1e3, ns, sum);
    fflush(stdout);
    rte_acl_free(rules);
}

int main(int argc, char **argv) {
    int used = rte_eal_init(argc, argv);
    if (used < 0 || argc - used < 3)
        fail("classify [EAL arguments] -- DIR NAME...");
    for (int i = used + 2; i < argc; i++)
        measure(argv[used + 1], argv[i]);
    return 0;
}
