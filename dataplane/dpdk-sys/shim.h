/* What bindgen sees: DPDK's headers and the out-of-line forms of the inline functions we need once per burst. */
#ifndef MANDATE_DPDK_SHIM_H
#define MANDATE_DPDK_SHIM_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/*
 * What is read of an mbuf for every packet. DPDK 24.11 moved these fields into anonymous unions, so how they are reached
 * in the bindings depends on the release; where they are does not, and shim.c asserts it.
 */
struct mandate_mbuf {
  void *buf_addr;
  uint64_t buf_iova;
  uint16_t data_off;
  uint16_t refcnt;
  uint16_t nb_segs;
  uint16_t port;
  uint64_t ol_flags;
  uint32_t packet_type;
  uint32_t pkt_len;
  uint16_t data_len;
  uint16_t others[6];
  uint16_t buf_len;
};

/* rte_errno of the calling thread. */
int mandate_errno(void);

/* One call a burst: 3 ns each, so 0.1 ns a packet at 32 packets. */
uint16_t mandate_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **out, uint16_t room);
uint16_t mandate_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **in, uint16_t count);
int mandate_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **out, unsigned int count);
void mandate_free_bulk(struct rte_mbuf **in, unsigned int count);

/* Whether the link is up, and its speed in Mbit/s (0 if the driver cannot say). */
int mandate_link(uint16_t port, uint32_t *speed_mbps);

/* Receive-side scaling: the mode, and the fields of IP, TCP, UDP and SCTP that are hashed. */
unsigned int mandate_mq_rss(void);
uint64_t mandate_rss_fields(void);

/* Sends everything DPDK logs to `sink` (bytes and their number) instead of stderr and syslog; 0, or -1 and errno. */
typedef void (*mandate_log_sink)(const char *bytes, size_t length);
int mandate_log_to(mandate_log_sink sink);

#endif
