#include "sluice/stream/receiver_input.h"

#include <algorithm>
#include <utility>

namespace sluice::detail {
namespace {

/// On a thread of this process.
class LocalReceiver : public ReceiverRun {
 public:
  LocalReceiver(Engine& engine, const ReceiverProgram& program, Duration restart_delay, ReceivedBlocks& blocks,
                ReceiverBudget& budget)
      : budget_(budget),
        channel_(program.make_channel({engine.runtime(), blocks, budget, "driver"})),
        thread_(engine.runtime().spawn("receiver", [channel = channel_, body = program.make_body(), restart_delay] {
          run_receiver(*channel, body, restart_delay);
        })) {}
  ~LocalReceiver() override { stop(); }
  LocalReceiver(const LocalReceiver&) = delete;
  LocalReceiver& operator=(const LocalReceiver&) = delete;

  void seal(Time time) override { channel_->seal_until(time); }
  void await_sealed() override {}
  void release(std::uint64_t, std::size_t bytes) override { budget_.release(bytes); }
  void stop() override {
    if (thread_ == nullptr) return;
    channel_->request_stop();
    thread_->join();
    thread_ = nullptr;
    channel_->seal();
  }

 private:
  ReceiverBudget& budget_;
  const std::shared_ptr<ReceiverChannel> channel_;
  std::unique_ptr<Thread> thread_;
};

/// In place of a block that is gone and lies in no log.
class LostBlockSource : public Source {
 public:
  explicit LostBlockSource(std::uint64_t counter) : counter_(counter) {}
  void read(const OpenAt& at, Pipe&) const override { at.task.add(counter_, 1); }

 private:
  std::uint64_t counter_;
};

}  // namespace

ReceiverInput::ReceiverInput(Shipped<ReceiverProgram> program, std::shared_ptr<ReceiverBudget> budget,
                             ReceiverInputOptions options)
    : program_(std::move(program)),
      kernel_(program_->kernel()),
      budget_(std::move(budget)),
      options_(std::move(options)) {}

void ReceiverInput::start(Engine& engine, InputStart start) {
  is_recorded_ = start.recorder != nullptr;
  blocks_ = std::make_unique<ReceivedBlocks>(start.recorder, start.number_before, start.position);
  earlier_ = std::move(start);
  for (const auto& [number, block] : earlier_.blocks) {
    if (block.owner == 0 || !engine.blocks().has({block.owner, 0})) continue;
    ReceivedBlock kept;
    kept.lease = std::make_shared<BlockLease>(engine.shared_from_this(), block.owner);
    kept.handle = block.handle;
    at_hand_.emplace(number, AtHand{Time::max(), std::move(kept)});
  }
  lost_counter_ = engine.next_id();
  if (engine.runner().runs_services() && !options_.in_driver) {
    const ReceiverServiceOptions service{options_.restart_delay, budget_->limit(), is_recorded_,
                                         options_.preferred_host};
    run_ = run_on_executor(engine, program_, service, *blocks_);
  } else {
    run_ = std::make_unique<LocalReceiver>(engine, *program_, options_.restart_delay, *blocks_, *budget_);
  }
}

void ReceiverInput::start_replay(Engine&, InputStart start) { earlier_ = std::move(start); }

void ReceiverInput::stop() {
  if (run_ != nullptr) run_->stop();
}

void ReceiverInput::prepare(Time time) { run_->seal(time); }

std::string ReceiverInput::choose(Engine& engine, Time time, InputInfo& told) {
  run_->await_sealed();
  for (auto& [number, block] : at_hand_) block.batch = std::min(block.batch, time);
  chosen_ = std::exchange(earlier_.unallocated, {});
  for (const std::uint64_t number : chosen_) {
    const RecordedBlock& block = earlier_.blocks.at(number);
    told.bytes += block.bytes;
    told.records += block.records;
  }
  for (ReceivedBlock& block : blocks_->take_until(time)) {
    told.bytes += block.bytes;
    told.records += block.records;
    chosen_.push_back(block.number);
    if (held_.empty() || held_.back().batch != time || held_.back().origin != block.origin) {
      held_.push_back({time, block.origin, 0});
    }
    held_.back().bytes += block.bytes;
    at_hand_.emplace(chosen_.back(), AtHand{time, std::move(block)});
  }
  told.blocks += chosen_.size();
  const std::int64_t lost = engine.accumulated(lost_counter_);
  told.blocks_lost += static_cast<std::uint64_t>(lost - std::exchange(lost_before_, lost));
  if (chosen_.empty()) return {};
  Encoder out;
  encode(chosen_, out);
  return out.take();
}

// A block on executors. Where it is lost it is read from the log, or nothing is left of it.
NodePtr ReceiverInput::block_node(const OperatorInfoPtr& info, const ReceivedBlock& block) const {
  Shipped<Source> again = block.handle.has_value() ? program_->logged_source(earlier_.wal_directory, *block.handle)
                                                   : ship<Source, LostBlockSource>(*info, std::uint64_t{lost_counter_});
  return make_kept_block(make_source(info, program_->block_type(), {std::move(again)}, 1), block.lease);
}

// Of blocks of an earlier run that were in memory alone nothing is left.
NodePtr ReceiverInput::rdd(Engine&, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) {
  std::vector<NodePtr> nodes;
  std::vector<Shipped<Source>> sources;  // those that follow one another are one node
  const auto add_sources = [&] {
    if (sources.empty()) return;
    const std::size_t partitions = sources.size();
    nodes.push_back(make_source(info, program_->block_type(), std::exchange(sources, {}), partitions));
  };
  if (!choice.empty()) {
    Decoder in(choice);
    for (const std::uint64_t number : decode<std::vector<std::uint64_t>>(in)) {
      const auto here = at_hand_.find(number);
      if (here != at_hand_.end()) {
        const ReceivedBlock& block = here->second.block;
        if (block.lease != nullptr) {
          add_sources();
          nodes.push_back(block_node(info, block));
        } else {
          sources.push_back(block.source);
        }
        continue;
      }
      const auto earlier = earlier_.blocks.find(number);
      if (earlier == earlier_.blocks.end() || !earlier->second.handle) {
        ++told.blocks_lost;
      } else {
        sources.push_back(program_->logged_source(earlier_.wal_directory, *earlier->second.handle));
      }
    }
  }
  add_sources();
  NodePtr node = make_input_node(info, program_->block_type(), std::move(nodes), options_.partitions_max);
  return kernel_ ? make_narrow(info, program_->block_type(), std::move(node), kernel_) : node;
}

void ReceiverInput::completed(Time time) {
  while (!held_.empty() && held_.front().batch <= time) {
    run_->release(held_.front().origin, held_.front().bytes);
    held_.pop_front();
  }
  std::erase_if(at_hand_, [time](const auto& each) { return each.second.batch <= time; });
}

bool ReceiverInput::pending() {
  run_->seal(Time::max());
  run_->await_sealed();
  return blocks_->has_blocks() || !earlier_.unallocated.empty();
}

bool ReceiverInput::ended() { return blocks_->at_end() && !pending(); }

std::vector<Input::ReceiverEvent> ReceiverInput::take_events() {
  return blocks_ == nullptr ? std::vector<ReceiverEvent>() : blocks_->take_events();
}

}  // namespace sluice::detail
