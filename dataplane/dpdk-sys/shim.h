/* What bindgen sees: DPDK's headers and the out-of-line forms of the inline functions we need once per burst. */
#ifndef MANDATE_DPDK_SHIM_H
#define MANDATE_DPDK_SHIM_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* rte_errno of the calling thread. */
int mandate_errno(void);

/* One call a burst: 3 ns each, so 0.1 ns a packet at 32 packets. */
uint16_t mandate_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **out, uint16_t room);
uint16_t mandate_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **in, uint16_t count);
int mandate_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **out, unsigned int count);
void mandate_free_bulk(struct rte_mbuf **in, unsigned int count);

/* Sends everything DPDK logs to `sink` (bytes and their number) instead of stderr and syslog; 0, or -1 and errno. */
typedef void (*mandate_log_sink)(const char *bytes, size_t length);
int mandate_log_to(mandate_log_sink sink);

#endif
