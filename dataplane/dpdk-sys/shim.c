#define _GNU_SOURCE
#include "shim.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define SAME_PLACE(field)                                                                          \
  static_assert(offsetof(struct mandate_mbuf, field) == offsetof(struct rte_mbuf, field) &&        \
                    sizeof(((struct mandate_mbuf *)0)->field) == sizeof(((struct rte_mbuf *)0)->field), \
                "this DPDK has rte_mbuf." #field " elsewhere: change mandate_mbuf in shim.h")

SAME_PLACE(buf_addr);
SAME_PLACE(data_off);
SAME_PLACE(nb_segs);
SAME_PLACE(pkt_len);
SAME_PLACE(data_len);
SAME_PLACE(buf_len);

/*
 * The EAL makes a run-time directory (in /var/run, or in /tmp when unprivileged) even when it shares nothing and has no
 * use for one. RUNTIME_DIRECTORY names another place for it; in this one nothing can be made, and without shared
 * configuration the EAL goes on. Set before main: later there may be threads that read the environment.
 */
__attribute__((constructor)) static void leave_no_directory(void) { setenv("RUNTIME_DIRECTORY", "/proc/self", 1); }

int mandate_errno(void) { return rte_errno; }

uint16_t mandate_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **out, uint16_t room) {
  return rte_eth_rx_burst(port, queue, out, room);
}

uint16_t mandate_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **in, uint16_t count) {
  return rte_eth_tx_burst(port, queue, in, count);
}

int mandate_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **out, unsigned int count) {
  return rte_pktmbuf_alloc_bulk(pool, out, count);
}

void mandate_free_bulk(struct rte_mbuf **in, unsigned int count) { rte_pktmbuf_free_bulk(in, count); }

int mandate_link(uint16_t port, uint32_t *speed_mbps) {
  struct rte_eth_link link = {0};
  int known = rte_eth_link_get_nowait(port, &link) == 0;

  *speed_mbps = link.link_speed;
  return known && link.link_status == RTE_ETH_LINK_UP;
}

unsigned int mandate_mq_rss(void) { return RTE_ETH_MQ_RX_RSS; }

uint64_t mandate_rss_fields(void) {
  return RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP;
}

static mandate_log_sink log_sink;

static ssize_t write_log(void *cookie, const char *bytes, size_t length) {
  (void)cookie;
  log_sink(bytes, length);
  return (ssize_t)length;
}

int mandate_log_to(mandate_log_sink sink) {
  cookie_io_functions_t functions = {.write = write_log};
  FILE *stream;

  log_sink = sink;
  stream = fopencookie(NULL, "w", functions);
  return stream == NULL ? -1 : rte_openlog_stream(stream);
}
