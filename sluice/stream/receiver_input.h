// An input whose records a receiver stores: on a thread of this process, or on an executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sluice/stream/receiver.h"
#include "sluice/stream/remote_receiver.h"

namespace sluice::detail {

struct ReceiverInputOptions {
  /// See Input::argument.
  std::string argument;
  Duration restart_delay = std::chrono::seconds(2);
  /// Most partitions of a batch; more blocks than that share one.
  std::size_t partitions_max = 1024;
  /// It reads something that the driver's process alone has.
  bool in_driver = false;
  /// See ReceiverServiceOptions.
  std::string preferred_host{};
};

/// See the head of this file. Threads: those of Input.
class ReceiverInput : public Input {
 public:
  ReceiverInput(Shipped<ReceiverProgram> program, std::shared_ptr<ReceiverBudget> budget, ReceiverInputOptions options);

  std::string argument() const override { return options_.argument; }
  bool can_be_read_again() const override { return is_recorded_; }
  void start(Engine& engine, InputStart start) override;
  void start_replay(Engine& engine, InputStart start) override;
  void stop() override;
  void prepare(Time time) override;
  std::string choose(Engine& engine, Time time, InputInfo& told) override;
  std::vector<std::uint64_t> chosen_blocks() override { return chosen_; }
  NodePtr rdd(Engine& engine, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) override;
  void completed(Time time) override;
  void restore(std::map<std::uint64_t, RecordedBlock> blocks) override { earlier_.blocks = std::move(blocks); }
  bool pending() override;
  bool ended() override;
  std::size_t receivers() const override { return 1; }
  std::vector<ReceiverEvent> take_events() override;

 private:
  NodePtr block_node(const OperatorInfoPtr& info, const ReceivedBlock& block) const;

  const Shipped<ReceiverProgram> program_;
  const Shipped<Kernel> kernel_;
  const std::shared_ptr<ReceiverBudget> budget_;
  const ReceiverInputOptions options_;
  bool is_recorded_ = false;
  /// `blocks`: those that batches name that are run again.
  InputStart earlier_;
  /// Accumulator: blocks of this run that no executor had any more.
  std::uint64_t lost_counter_ = 0;
  std::int64_t lost_before_ = 0;
  std::unique_ptr<ReceivedBlocks> blocks_;
  std::unique_ptr<ReceiverRun> run_;
  std::vector<std::uint64_t> chosen_;
  /// Blocks of this run that a batch has chosen, until it is complete; and those of earlier runs that executors have
  /// kept, until the first batch of this one is.
  struct AtHand {
    Time batch;
    ReceivedBlock block;
  };
  std::map<std::uint64_t, AtHand> at_hand_;
  struct Held {
    Time batch;
    std::uint64_t origin;
    std::size_t bytes;
  };
  std::deque<Held> held_;  // of batches not complete
};

}  // namespace sluice::detail
