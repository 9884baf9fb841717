#include "sluice/cluster/service_keeper.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "sluice/runtime/kill_point.h"

namespace sluice::detail {

/// Who calls `keep` and `tell` only adds to the queue; a thread works it off.
class ServiceKeeper::Running : public ServiceHost, public std::enable_shared_from_this<Running> {
 public:
  Running(ServiceKeeper& keeper, StartService&& message)
      : keeper_(keeper), id_(message.id), copies_(message.copies), changed_(keeper.runtime_.condition()) {
    Decoder in(message.maker);
    const auto maker = Shipped<ServiceMaker>::decode_from(in);
    in.expect_end();
    service_ = maker->make(*this);
  }

  Runtime& runtime() override { return keeper_.runtime_; }
  std::string place() const override { return keeper_.options_.place(); }

  void tell(std::string message) override { add(std::move(message), nullptr); }
  void keep(RestedPtr records, std::string message) override { add(std::move(message), std::move(records)); }

  Service& service() { return *service_; }

  void run() {
    std::string why;
    try {
      service_->run();
    } catch (...) {
      why = current_exception_text();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    why_ = std::move(why);
    changed_->notify_all();
  }

  /// Works off the queue until the service has ended or `close` is called.
  void send() {
    for (;;) {
      EntryPtr to_copy;
      EntryPtr to_tell;
      {
        std::unique_lock lock(mutex_);
        for (;;) {
          if (closed_) return;
          if (!queue_.empty() && queue_.front()->is_ready) {
            to_tell = std::move(queue_.front());
            queue_.pop_front();
            break;
          }
          const auto waiting = std::find_if(queue_.begin(), queue_.end(), [](const EntryPtr& entry) {
            return !entry->is_ready && !entry->is_being_copied;
          });
          if (waiting != queue_.end()) {
            to_copy = *waiting;
            to_copy->is_being_copied = true;
            break;
          }
          if (ended_ && queue_.empty()) break;
          changed_->wait(lock);
        }
      }
      if (to_copy != nullptr) {
        copy(to_copy);
      } else if (to_tell != nullptr) {
        keeper_.options_.tell_driver(encode_message(to_tell->message));
      } else {
        return keeper_.options_.tell_driver(encode_message(ServiceEnded{id_, why_}));
      }
    }
  }

  void close() {
    service_->close();
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_->notify_all();
  }

 private:
  struct Entry {
    ServiceMessage message;
    RestedPtr records;
    /// The driver may hear of it when it is the first.
    bool is_ready = false;
    bool is_being_copied = false;
    /// Executors that did not take it.
    std::set<ExecutorId> refused;
  };
  using EntryPtr = std::shared_ptr<Entry>;

  void add(std::string text, RestedPtr records) {
    auto entry = std::make_shared<Entry>();
    entry->message.id = id_;
    entry->message.text = std::move(text);
    const std::lock_guard lock(mutex_);
    if (records != nullptr) entry->message.block = ++last_block_;
    entry->is_ready = records == nullptr;
    entry->records = std::move(records);
    queue_.push_back(std::move(entry));
    changed_->notify_all();
  }

  // Blocks go to the other executors in turn, so that tasks that read them do, too.
  ExecutorId choose(const Entry& entry) const {
    if (!copies_) return 0;
    std::vector<ExecutorId> others = keeper_.peers_.others();
    std::erase_if(others, [&](ExecutorId id) { return entry.refused.contains(id); });
    return others.empty() ? 0 : others[entry.message.block % others.size()];
  }

  void copy(const EntryPtr& entry) {
    const BlockId block = service_block(id_, entry->message.block);
    keeper_.blocks_.put(block, entry->records, Keep::memory_and_disk);
    kill_point("executor.before_block_copy");
    const ExecutorId to = choose(*entry);
    if (to == 0) return copied(entry, 0, false);
    keeper_.peers_.ask(to, keep_block(block, *entry->records, Keep::memory_and_disk),
                       [self = shared_from_this(), entry, to](std::optional<std::string_view> answer) {
                         const std::optional<Taken> taken = decode_answer<Taken>(answer);
                         self->copied(entry, to, !taken.has_value() || !taken->error.empty());
                       });
  }

  void copied(const EntryPtr& entry, ExecutorId to, bool is_refused) {
    const std::lock_guard lock(mutex_);
    if (is_refused) {
      entry->refused.insert(to);
      entry->is_being_copied = false;
    } else {
      entry->message.copy = to;
      entry->records = nullptr;
      entry->is_ready = true;
    }
    changed_->notify_all();
  }

  ServiceKeeper& keeper_;
  const std::uint64_t id_;
  const bool copies_;
  std::unique_ptr<Service> service_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  bool ended_ = false;
  std::string why_;
  std::uint32_t last_block_ = 0;
  std::deque<EntryPtr> queue_;
};

ServiceKeeper::ServiceKeeper(Runtime& runtime, BlockStore& blocks, PeerConnections& peers, Options options)
    : runtime_(runtime), blocks_(blocks), peers_(peers), options_(std::move(options)), threads_(runtime) {}

ServiceKeeper::~ServiceKeeper() {
  close();
  join();
}

void ServiceKeeper::start(StartService&& message) {
  const std::uint64_t id = message.id;
  RunningPtr running;
  try {
    running = std::make_shared<Running>(*this, std::move(message));
  } catch (...) {
    return options_.tell_driver(encode_message(ServiceEnded{id, current_exception_text()}));
  }
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  // It takes a core for good. The last one is shared with tasks: else state that lies here could not be worked on.
  if (running_.size() + 1 < options_.cores) {
    options_.launch([running] { running->run(); });
  } else {
    threads_.spawn("service", [running] { running->run(); });
  }
  running_[id] = running;
  threads_.spawn("service's blocks", [this, running, id] {
    running->send();
    const std::lock_guard ended(mutex_);
    running_.erase(id);
  });
}

ServiceKeeper::RunningPtr ServiceKeeper::find(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(id);
  return found == running_.end() ? nullptr : found->second;
}

void ServiceKeeper::stop(const StopService& message) {
  if (const RunningPtr running = find(message.id)) running->service().stop();
}

void ServiceKeeper::pass_on(const ServiceMessage& message) {
  if (const RunningPtr running = find(message.id)) running->service().on_message(message.text);
}

void ServiceKeeper::close() {
  std::map<std::uint64_t, RunningPtr> running;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    running = running_;
  }
  for (const auto& [id, each] : running) each->close();
}

}  // namespace sluice::detail
