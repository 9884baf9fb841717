// Rows RC, BC-02, GS: receivers on a clock that the test turns.
#include <atomic>
#include <numeric>
#include <stdexcept>

#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

// The context of the running Hose. Receivers are made by factories that capture no pointers; statics are how a test in
// the same process reaches them.
std::atomic<ReceiverContext<int>*> hose{nullptr};

/// Stores what the test tells it to store, on the test's thread.
struct Hose : Receiver<int> {
  void run(ReceiverContext<int>& context) override {
    hose = &context;
    hose.notify_all();
    while (context.wait_for(24h)) {
    }
    hose = nullptr;
  }
};

DStream<int> hose_stream(StreamTest& t) {
  hose = nullptr;
  return t.streaming().receiver_stream<int>([] { return std::make_unique<Hose>(); });
}

ReceiverContext<int>& open_hose(StreamTest& t) {
  t.start();
  if (dynamic_cast<HandRuntime*>(&t.runtime()) != nullptr) {
    hose.wait(nullptr);
  } else {
    while (hose == nullptr) t.runtime().wait_for(1ms);
  }
  return *hose;
}

// Receivers need a core of their own.
void with_receivers(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  everywhere_in_one_life(
      [&](StreamTest& t) {
        if (t.context().engine()->cores() > 1) body(t);
      },
      base);
}

TEST(Rc, BC_02_a_batch_has_what_was_stored_until_its_time_in_the_order_of_storing) {
  with_receivers([](StreamTest& t) {
    auto out = t.output(hose_stream(t));
    auto& in = open_hose(t);
    for (int i = 1; i <= 3; ++i) EXPECT_TRUE(in.store(i));
    EXPECT_TRUE(in.store(std::vector{4, 5}));
    EXPECT_TRUE(in.store(6));
    t.run(1);
    t.run(1);
    EXPECT_TRUE(in.store(7));
    t.run(1);
    EXPECT_EQ(values(out.batches()), (Ints{{1, 2, 3, 4, 5, 6}, {}, {7}}));
  });
}

TEST(Rc, BlocksAreClosedAfterTheBlockInterval) {
  HandRuntime runtime;
  StreamTest t{{.runtime = &runtime, .block_interval = 100ms}};
  std::vector<std::size_t> partitions;
  auto stream = hose_stream(t);
  stream.foreach_rdd([&](const Rdd<int>& rdd) { partitions.push_back(rdd.partitions()); });
  auto out = t.output(stream);
  auto& in = open_hose(t);
  runtime.advance(10ms);
  for (int i = 0; i < 6; ++i) {
    in.store(i);
    runtime.advance(60ms);
  }
  t.run(1);
  EXPECT_EQ(values(out.batches()), (Ints{{0, 1, 2, 3, 4, 5}}));
  EXPECT_EQ(partitions, (std::vector<std::size_t>{3}));  // 10 and 70 ms, 130 and 190, 250 and 310
}

TEST(Rc, BC_02_a_late_driver_gives_blocks_to_the_batch_of_the_time_at_which_they_were_stored) {
  HandRuntime runtime;
  StreamTest t{{.runtime = &runtime}};
  auto stream = hose_stream(t);
  bool first = true;
  stream.foreach_rdd([&](const Rdd<int>&) {
    if (!first) return;
    first = false;
    auto& in = *hose;
    runtime.advance(500ms);  // 1.5 s
    in.store(std::vector{2});
    runtime.advance(500ms);  // 2 s: still batch 2
    in.store(2);
    runtime.advance(500ms);  // 2.5 s
    in.store(3);
    in.store(std::vector{3});
    runtime.advance(1s);  // 3.5 s
    in.store(4);
  });
  auto out = t.output(stream);
  open_hose(t).store(1);
  t.run(4);
  EXPECT_EQ(values(out.batches()), (Ints{{1}, {2, 2}, {3, 3}, {4}}));
}

TEST(Rc, RecordsStoredSinglyAndInBlocksKeepTheirOrderAndBatch) {
  HandRuntime runtime;
  StreamTest t{{.runtime = &runtime}};
  auto stream = hose_stream(t);
  bool first = true;
  stream.foreach_rdd([&](const Rdd<int>&) {
    if (!std::exchange(first, false)) return;
    runtime.advance(900ms);  // 1.9 s
    hose.load()->store(20);
    runtime.advance(200ms);  // 2.1 s
    hose.load()->store(std::vector{30, 31});
    hose.load()->store(32);
    hose.load()->store(std::vector{33});
  });
  auto out = t.output(stream);
  open_hose(t);
  t.run(3);
  EXPECT_EQ(values(out.batches()), (Ints{{}, {20}, {30, 31, 32, 33}}));
}

std::atomic<int> flood_next{0};

/// Stores blocks of a hundred numbers as fast as it can.
struct Flood : Receiver<int> {
  void run(ReceiverContext<int>& context) override {
    std::vector<int> block(100);
    while (!context.stopped()) {
      std::iota(block.begin(), block.end(), flood_next.load());
      if (!context.store(block)) return;
      flood_next += 100;
    }
  }
};

TEST(Rc, BP_the_byte_budget_holds_from_the_first_batch_on_under_endless_overload) {
  static constexpr std::size_t limit = 64 << 10;
  with_receivers(
      [](StreamTest& t) {
        flood_next = 0;
        auto stream = t.streaming().receiver_stream<int>([] { return std::make_unique<Flood>(); });
        const auto budget = t.streaming().driver()->budget();
        std::size_t most = 0;
        int next = 0;
        stream.foreach_rdd([&](const Rdd<int>& rdd) {
          most = std::max(most, budget->used());
          for (const int x : rdd.collect()) ASSERT_EQ(x, next++);
          most = std::max(most, budget->used());
        });
        t.run(600);
        most = std::max(most, budget->used());
        EXPECT_LE(most, limit);     // a block of a hundred numbers is smaller than that
        EXPECT_GT(next, 600 * 10);  // it does not starve either, on a machine that is busy
        t.stop(true);
        EXPECT_EQ(next, flood_next.load());  // GS-04
      },
      {.receiver_memory_bytes = limit, .without_wal = true});
}

TEST(Rc, LC_05_every_core_taken_by_receivers_is_refused_with_the_arithmetic) {
  for (const std::size_t receivers : {1, 2, 3}) {
    StreamTest t{{.cores = receivers}};
    for (std::size_t i = 0; i < receivers; ++i) t.output(hose_stream(t));
    try {
      t.start();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::too_few_cores);
      const std::string n = std::to_string(receivers);
      EXPECT_NE(std::string(error.what()).find(n + " cores, " + n + " receivers: 0 cores left"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(t.context().parallelize(std::vector{1, 2}).count(), 2);
  }
}

struct Delays : StreamingListener {
  std::vector<Duration> scheduling;
  void on_batch_completed(const BatchInfo& batch) override { scheduling.push_back(*batch.scheduling_delay()); }
};

TEST(Rc, GS_01_the_last_batch_is_due_with_the_stop) {
  with_receivers([](StreamTest& t) {
    const auto delays = std::make_shared<Delays>();
    t.streaming().add_listener(delays);
    hose_stream(t).foreach_rdd([](const Rdd<int>& rdd) { rdd.count(); });
    auto& in = open_hose(t);
    t.run(1);
    in.store(1);
    t.stop(true);
    ASSERT_EQ(delays->scheduling.size(), 2U);
    EXPECT_GE(delays->scheduling.back(), Duration{});
    EXPECT_LT(delays->scheduling.back(), t.streaming().batch_interval());
  });
}

TEST(Rc, GS_04_no_record_accepted_before_a_graceful_stop_is_lost) {
  with_receivers([](StreamTest& t) {
    int sum = 0;
    hose_stream(t).foreach_rdd([&](const Rdd<int>& rdd) {
      for (const int x : rdd.collect()) sum += x;
    });
    auto& in = open_hose(t);
    in.store(1);
    t.run(1);
    in.store(2);                  // in the open block
    in.store(std::vector{4, 8});  // a block that no batch has
    in.store(16);
    t.stop(true);
    EXPECT_EQ(sum, 31);
  });
}

TEST(Rc, GS_02_a_stop_that_is_not_graceful_does_not_wait_for_a_receiver_that_waits_for_room) {
  with_receivers(
      [](StreamTest& t) {
        flood_next = 0;  // how large its numbers are is a part of the trace
        t.streaming().receiver_stream<int>([] { return std::make_unique<Flood>(); }).foreach_rdd([](const Rdd<int>&) {
        });
        t.run(2);
        t.stop();
        EXPECT_EQ(t.streaming().state(), StreamState::stopped);
      },
      {.receiver_memory_bytes = 1});
}

struct ReceiverEvents : StreamingListener {
  std::vector<std::string> told;
  void on_receiver_started(const ReceiverInfo& info) override { told.push_back("started " + info.name); }
  void on_receiver_stopped(const ReceiverInfo& info) override { told.push_back("stopped " + info.name); }
  void on_receiver_error(const ReceiverInfo& info) override { told.push_back("error " + info.last_error); }
};

std::atomic<int> runs{0};
/// Fails twice, then stores one number and ends.
struct Fails : Receiver<int> {
  int own_runs = 0;
  void run(ReceiverContext<int>& context) override {
    ++own_runs;
    runs = own_runs;
    runs.notify_all();
    if (own_runs < 3) throw std::runtime_error("failure " + std::to_string(own_runs));
    context.store(own_runs);
    context.end_of_input();
  }
};

TEST(Rc, RC_07_a_receiver_that_fails_is_run_again_after_the_delay_and_LS_04_its_events_are_told) {
  with_receivers(
      [](StreamTest& t) {
        runs = 0;
        const auto events = std::make_shared<ReceiverEvents>();
        t.streaming().add_listener(events);
        auto out = t.output(
            t.streaming().receiver_stream<int>([] { return std::make_unique<Fails>(); }, {.restart_delay = 5s}));
        t.start();
        for (int run = 1; run <= 3; ++run) {
          // The clock is turned when the receiver waits, which is some time after it has failed.
          while (runs < run) t.run(1);
          EXPECT_EQ(runs.load(), run);
        }
        while (t.streaming().state() == StreamState::active) t.run(1);
        EXPECT_EQ(t.streaming().state(), StreamState::stopped);
        Ints stored;
        for (const auto& batch : values(out.batches())) {
          if (!batch.empty()) stored.push_back(batch);
        }
        EXPECT_EQ(stored, (Ints{{3}}));
        const std::string name = "receiver_stream";
        EXPECT_EQ(events->told, (std::vector<std::string>{"started " + name, "error failure 1", "stopped " + name,
                                                          "started " + name, "error failure 2", "stopped " + name,
                                                          "started " + name, "stopped " + name}));
      },
      {.stop_at_end_of_input = true});
}

TEST(Rc, LS_04_listeners_hear_that_a_receiver_has_stopped_with_its_stream) {
  with_receivers([](StreamTest& t) {
    const auto events = std::make_shared<ReceiverEvents>();
    t.streaming().add_listener(events);
    t.output(hose_stream(t));
    open_hose(t);
    t.run(1);
    t.stop();
    EXPECT_EQ(events->told, (std::vector<std::string>{"started receiver_stream", "stopped receiver_stream"}));
  });
}

TEST(Rc, AListenerThatThrowsAtTheStreamsEndIsAnErrorAndNothingIsLeftOfTheStream) {
  struct Throws : StreamingListener {
    void on_receiver_stopped(const ReceiverInfo&) override { throw std::runtime_error("I do not like ends"); }
  };
  with_receivers([](StreamTest& t) {
    t.streaming().add_listener(std::make_shared<Throws>());
    auto held = std::make_shared<int>(0);
    const std::weak_ptr<int> left = held;
    hose_stream(t).foreach_rdd([held = std::move(held)](const Rdd<int>&) { ++*held; });
    open_hose(t);
    t.run(1);
    EXPECT_FALSE(left.expired());
    EXPECT_THROW(t.stop(true), std::runtime_error);
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
    EXPECT_TRUE(left.expired());
  });
}

TEST(Rc, SC_18_a_union_of_receivers) {
  with_receivers([](StreamTest& t) {
    if (t.context().engine()->cores() < 3) return;
    auto a = hose_stream(t);
    auto b = t.streaming().receiver_stream<int>([] { return std::make_unique<Fails>(); }, {.restart_delay = 1ms});
    auto out = t.output(t.streaming().union_of<int>({a, b}));
    open_hose(t).store(1);
    t.run(1);
    EXPECT_EQ(out.batches()[0].records[0], 1);
  });
}

}  // namespace
}  // namespace sluice::testing
