#include "sluice/stream/remote_receiver.h"

#include <optional>
#include <string_view>
#include <utility>

#include "sluice/core/message.h"

namespace sluice::detail {
namespace {

// ---- What the two sides say to each other (core/message.h)

/// A block, which lies on executors now.
struct Added {
  static constexpr std::uint8_t kind = 1;
  std::uint64_t bytes = 0;
  std::uint64_t records = 0;
  Time stored{};
  std::string position;
  /// For the write-ahead log, if there is one.
  std::string logged;
};
struct Event {
  static constexpr std::uint8_t kind = 2;
  Input::ReceiverEvent::Kind what = Input::ReceiverEvent::Kind::error;
  std::string text;
  std::string place;
};
/// All blocks until the time of that `Seal` have been told.
struct Sealed {
  static constexpr std::uint8_t kind = 3;
  std::uint64_t number = 0;
};
/// The source has ended; all its blocks have been told.
struct AtEnd {
  static constexpr std::uint8_t kind = 4;
};
struct Seal {
  static constexpr std::uint8_t kind = 5;
  std::uint64_t number = 0;
  Time time{};
};
struct Released {
  static constexpr std::uint8_t kind = 6;
  std::uint64_t bytes = 0;
};
/// So many blocks are stored; or they never will be, and why.
struct Stored {
  static constexpr std::uint8_t kind = 7;
  std::uint64_t blocks = 0;
  std::uint32_t code = 0;
  std::string why;
};

[[noreturn]] void fail_unknown() {
  throw Error(Code::corrupt_data, {.why = "a message of a receiver, or to one, is of unknown kind"});
}

// ---- On the executor

class ReceiverService : public Service, public BlockTaker {
 public:
  ReceiverService(ServiceHost& host, const Shipped<ReceiverProgram>& program, const ReceiverServiceOptions& options,
                  std::string position)
      : host_(host),
        program_(program),
        options_(options),
        budget_(host.runtime(), options.memory_bytes),
        changed_(host.runtime().condition()),
        position_(std::move(position)),
        channel_(program_->make_channel({host.runtime(), *this, budget_, host.place()})) {}

  void run() override {
    run_receiver(*channel_, program_->make_body(), options_.restart_delay);
    channel_->seal();
    if (channel_->at_end()) host_.tell(encode_message(AtEnd{}));
  }

  void on_message(std::string_view message) override {
    switch (message_kind(message)) {
      case Seal::kind: {
        const auto seal = decode_message<Seal>(message);
        channel_->seal_until(seal.time);
        return host_.tell(encode_message(Sealed{seal.number}));
      }
      case Released::kind: return budget_.release(decode_message<Released>(message).bytes);
      case Stored::kind: {
        auto stored = decode_message<Stored>(message);
        const std::lock_guard lock(mutex_);
        stored_ = std::move(stored);
        return changed_->notify_all();
      }
      default: fail_unknown();
    }
  }

  void stop() override {
    channel_->request_stop();
    budget_.cancel();
  }

  void close() override {
    stop();
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_->notify_all();
  }

  // -- for the channel

  std::uint64_t put(NewBlock block, Time stored) override {
    Added added{block.bytes, block.records, stored, block.position, {}};
    if (options_.is_recorded) added.logged = block.logged().bytes;
    const std::lock_guard lock(mutex_);
    if (!block.position.empty()) position_ = std::move(block.position);
    host_.keep(block.rested(), encode_message(added));
    return ++put_;
  }

  bool wait_stored(std::uint64_t place) override {
    std::unique_lock lock(mutex_);
    while (!closed_ && stored_.code == 0 && stored_.blocks < place) changed_->wait(lock);
    if (stored_.code != 0) throw Error(static_cast<Code>(stored_.code), {.why = stored_.why});
    return !closed_;
  }

  std::string position() override {
    const std::lock_guard lock(mutex_);
    return position_;
  }

  void add_event(Input::ReceiverEvent event) override {
    host_.tell(encode_message(Event{event.kind, std::move(event.error), std::move(event.place)}));
  }
  void end_of_input() override {}  // told when its last block has been

 private:
  ServiceHost& host_;
  const Shipped<ReceiverProgram> program_;
  const ReceiverServiceOptions options_;
  ReceiverBudget budget_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool closed_ = false;
  std::uint64_t put_ = 0;
  Stored stored_;
  std::string position_;
  const std::shared_ptr<ReceiverChannel> channel_;
};

class ReceiverServiceMaker : public ServiceMaker {
 public:
  ReceiverServiceMaker(Shipped<ReceiverProgram> program, ReceiverServiceOptions options, std::string position)
      : program_(std::move(program)), options_(std::move(options)), position_(std::move(position)) {}
  std::unique_ptr<Service> make(ServiceHost& host) const override {
    return std::make_unique<ReceiverService>(host, program_, options_, position_);
  }

 private:
  const Shipped<ReceiverProgram> program_;
  const ReceiverServiceOptions options_;
  const std::string position_;
};

// ---- In the driver

class RemoteReceiver : public ReceiverRun {
 public:
  RemoteReceiver(Engine& engine, Shipped<ReceiverProgram> program, const ReceiverServiceOptions& options,
                 ReceivedBlocks& blocks)
      : engine_(engine),
        program_(std::move(program)),
        options_(options),
        blocks_(blocks),
        changed_(engine.runtime().condition()),
        thread_(engine.runtime().spawn("receiver", [this] { run(); })) {}

  ~RemoteReceiver() override { stop(); }
  RemoteReceiver(const RemoteReceiver&) = delete;
  RemoteReceiver& operator=(const RemoteReceiver&) = delete;

  void seal(Time time) override {
    std::shared_ptr<RunningService> service;
    Seal message;
    {
      const std::lock_guard lock(mutex_);
      service = service_;
      message = {++asked_seal_, time};
      // Where none runs there is nothing to wait for.
      if (service == nullptr) seal_done_ = asked_seal_;
    }
    if (service != nullptr) service->tell(encode_message(message));
  }

  void await_sealed() override {
    std::unique_lock lock(mutex_);
    while (seal_done_ < asked_seal_) changed_->wait(lock);
  }

  void release(std::uint64_t origin, std::size_t bytes) override {
    std::shared_ptr<RunningService> service;
    {
      const std::lock_guard lock(mutex_);
      if (origin == origin_) service = service_;
    }
    if (service != nullptr) service->tell(encode_message(Released{bytes}));
  }

  void stop() override {
    if (thread_ == nullptr) return;
    std::shared_ptr<RunningService> service;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      service = service_;
      changed_->notify_all();
    }
    if (service != nullptr) service->stop();
    thread_->join();
    thread_ = nullptr;
  }

 private:
  void run() {
    while (begin()) {
      acknowledge_until_end();
      if (blocks_.at_end()) return;
    }
  }

  // False when the stream stops. Tried again for ever, as all that receivers fail at.
  bool begin() {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return false;
        ended_ = false;
        ++origin_;
        added_ = acknowledged_ = 0;
      }
      try {
        const auto maker =
            ship<ServiceMaker, ReceiverServiceMaker>(OperatorInfo{}, program_, options_, blocks_.position());
        std::shared_ptr<RunningService> service = engine_.runner().start_service(
            maker, options_.preferred_host,
            {[this](std::string_view message, std::optional<BlockId> block) { on_message(message, block); },
             [this](const std::string& why) { on_end(why); }});
        std::unique_lock lock(mutex_);
        service_ = service;
        if (!stopping_) return true;
        lock.unlock();
        service->stop();
        return true;
      } catch (const Error& error) {
        blocks_.add_event({Input::ReceiverEvent::Kind::error, error.what(), {}});
      }
      const Time until = engine_.runtime().clock().now() + options_.restart_delay;
      std::unique_lock lock(mutex_);
      while (!stopping_ && engine_.runtime().clock().now() < until) changed_->wait_until(lock, until);
    }
  }

  // Tells the receiver what is stored, which the log may have to be waited for.
  void acknowledge_until_end() {
    std::unique_lock lock(mutex_);
    for (;;) {
      while (!ended_ && acknowledged_ == added_) changed_->wait(lock);
      if (ended_) break;
      const std::shared_ptr<RunningService> service = service_;
      Stored stored{added_, 0, {}};
      const std::uint64_t place = last_place_;
      acknowledged_ = added_;
      lock.unlock();
      try {
        blocks_.wait_stored(place);
      } catch (const Error& error) {
        stored.code = static_cast<std::uint32_t>(error.code());
        stored.why = error.details().why;
      }
      service->tell(encode_message(stored));
      lock.lock();
    }
    const std::shared_ptr<RunningService> ended = std::exchange(service_, nullptr);
    seal_done_ = asked_seal_;
    changed_->notify_all();
    lock.unlock();  // whoever lets go of a service last says so to its executor
  }

  void on_message(std::string_view message, const std::optional<BlockId>& block) {
    switch (message_kind(message)) {
      case Added::kind: return add(decode_message<Added>(message), block.value());
      case Event::kind: {
        auto event = decode_message<Event>(message);
        {
          const std::lock_guard lock(mutex_);
          place_ = event.place;
        }
        return blocks_.add_event({event.what, std::move(event.text), std::move(event.place)});
      }
      case AtEnd::kind: return blocks_.end_of_input();
      case Sealed::kind: {
        const std::lock_guard lock(mutex_);
        seal_done_ = std::max(seal_done_, decode_message<Sealed>(message).number);
        return changed_->notify_all();
      }
      default: fail_unknown();
    }
  }

  void add(Added&& added, const BlockId& id) {
    ReceivedBlock block;
    block.lease = std::make_shared<BlockLease>(engine_.shared_from_this(), id.owner);
    block.bytes = added.bytes;
    block.records = added.records;
    block.stored = added.stored;
    const auto logged = std::make_shared<const std::string>(std::move(added.logged));
    const std::lock_guard lock(mutex_);
    block.origin = origin_;
    last_place_ = blocks_.put_elsewhere(std::move(block), {logged, *logged}, std::move(added.position));
    ++added_;
    changed_->notify_all();
  }

  void on_end(const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (!why.empty()) {
      blocks_.add_event({Input::ReceiverEvent::Kind::error, why, place_});
      blocks_.add_event({Input::ReceiverEvent::Kind::stopped, {}, place_});
    }
    ended_ = true;
    seal_done_ = asked_seal_;
    changed_->notify_all();
  }

  Engine& engine_;
  const Shipped<ReceiverProgram> program_;
  const ReceiverServiceOptions options_;
  ReceivedBlocks& blocks_;
  std::mutex mutex_;
  std::unique_ptr<Condition> changed_;
  bool stopping_ = false;
  /// Null while none runs.
  std::shared_ptr<RunningService> service_;
  bool ended_ = false;
  std::uint64_t origin_ = 0;
  /// Where the last one that has said something runs.
  std::string place_;
  /// Blocks of this origin that have come, and that it has been told of; where the last one stands in the log.
  std::uint64_t added_ = 0;
  std::uint64_t acknowledged_ = 0;
  std::uint64_t last_place_ = 0;
  std::uint64_t asked_seal_ = 0;
  std::uint64_t seal_done_ = 0;
  std::unique_ptr<Thread> thread_;
};

}  // namespace

std::unique_ptr<ReceiverRun> run_on_executor(Engine& engine, Shipped<ReceiverProgram> program,
                                             const ReceiverServiceOptions& options, ReceivedBlocks& blocks) {
  return std::make_unique<RemoteReceiver>(engine, std::move(program), options, blocks);
}

}  // namespace sluice::detail
