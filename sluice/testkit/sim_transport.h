// The network of a simulation: byte streams that deliver late, in other pieces than they were written, and may be cut.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sluice/runtime/transport.h"
#include "sluice/testkit/sim_scheduler.h"

namespace sluice::testing::detail {

/// See the head of this file and `Simulation`. The only hosts are those of loopback, all the same machine.
class SimTransport final : public Transport {
 public:
  explicit SimTransport(Scheduler& scheduler) : scheduler_(scheduler) {}

  std::unique_ptr<Connector> connector(const Address& address) override;
  std::unique_ptr<Listener> listen(const Address& address) override;
  /// The same: there is nowhere else.
  std::unique_ptr<Listener> listen_anywhere(const Address& address) override { return listen(address); }
  /// Its ends of connections are closed, and nobody listens where it did.
  void process_died(std::uint64_t process);

 private:
  friend class SimConnector;
  friend class SimListener;
  friend class SimConnection;
  struct Stream;
  struct Link;
  struct Queue;

  std::string free_port(const std::string& host);
  std::shared_ptr<Queue> queue_at(const std::string& address) const;

  Scheduler& scheduler_;
  std::map<std::string, std::weak_ptr<Queue>> listening_;
  /// Of this life.
  std::vector<std::weak_ptr<Link>> links_;
  std::uint16_t last_port_ = 49'151;
};

}  // namespace sluice::testing::detail
