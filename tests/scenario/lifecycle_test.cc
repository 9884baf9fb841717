// Rows LC, BC, SC, LS: life cycle and misuse, the batch clock, listeners.
#include <atomic>
#include <stdexcept>

#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

const Time hand_start = Time(1'700'000'000s);

// Runs `f`, which must throw this code.
template <class F>
void expect_code(Code code, const F& f) {
  try {
    f();
    ADD_FAILURE() << "no error, expected SLU-" << static_cast<int>(code);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
  }
}

TEST(Lc, LC_01_a_stream_without_output_does_not_start_and_LC_05_may_be_mended) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}});
    expect_code(Code::no_output, [&] { t.streaming().start(); });
    EXPECT_EQ(t.streaming().state(), StreamState::initialized);
    EXPECT_EQ(values(t.run(in, 1)), (Ints{{1}}));
  });
}

TEST(Lc, LC_02_starting_twice_does_nothing) {
  everywhere([](StreamTest& t) {
    auto out = t.output(t.stream<int>({{1}, {2}}));
    t.start();
    t.streaming().start();
    EXPECT_EQ(t.streaming().state(), StreamState::active);
    t.run(2);
    EXPECT_EQ(values(out.batches()), (Ints{{1}, {2}}));
  });
}

TEST(Lc, LC_03_a_stopped_stream_cannot_be_started_and_LC_04_stopping_twice_or_before_start_is_no_error) {
  everywhere([](StreamTest& t) {
    t.output(t.stream<int>({{1}}));
    t.run(1);
    t.streaming().stop();
    t.streaming().stop();
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
    expect_code(Code::context_stopped, [&] { t.streaming().start(); });
    StreamingContext never(t.context(), {.batch = 1s});
    never.stop();
    never.stop();
    EXPECT_EQ(never.state(), StreamState::stopped);
    expect_code(Code::context_stopped, [&] { never.start(); });
  });
}

TEST(Lc, LC_05_a_failed_start_leaves_everything_as_it_was) {
  everywhere(
      [](StreamTest& t) {
        struct Waits : Receiver<int> {
          void run(ReceiverContext<int>& context) override {
            while (context.wait_for(1h)) {
            }
          }
        };
        t.output(t.streaming().receiver_stream<int>([] { return std::make_unique<Waits>(); }));
        const std::size_t cores = t.context().engine()->cores();
        if (cores > 1) return;  // row RC: refused only where no core is left
        for (int i = 0; i < 3; ++i) expect_code(Code::too_few_cores, [&] { t.start(); });
        EXPECT_EQ(t.streaming().state(), StreamState::initialized);
        EXPECT_EQ(t.context().parallelize(std::vector{1, 2}).count(), 2);
      },
      {});
}

TEST(Lc, LC_06_two_streams_may_run_with_different_directories_but_not_with_one) {
  HandRuntime runtime;
  StreamTest a{{.runtime = &runtime, .checkpoint = "/tmp/sluice-lc-06-a"}};
  StreamTest b{{.runtime = &runtime, .checkpoint = "/tmp/sluice-lc-06-b"}};
  StreamTest again{{.runtime = &runtime, .checkpoint = "/tmp/sluice-lc-06-a"}};
  auto out_a = a.output(a.stream<int>({{1}}));
  auto out_b = b.output(b.stream<int>({{2}}));
  auto out_again = again.output(again.stream<int>({{3}, {4}, {5}}));
  a.run(1);
  b.run(1);
  expect_code(Code::already_active, [&] { again.start(); });
  expect_code(Code::already_active, [&] { again.start(); });
  a.run(1);
  a.stop();
  again.run(3);
  // It goes on behind the batches that the first one was done with.
  EXPECT_EQ(values(out_again.batches()), (Ints{{5}}));
  again.stop();
  b.stop();
  for (const char* directory : {"/tmp/sluice-lc-06-a", "/tmp/sluice-lc-06-b"}) runtime.files().remove_all(directory);
}

TEST(Lc, LC_07_and_LC_08_the_graph_is_fixed_after_start) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}});
    t.output(in);
    t.run(1);
    for (int round = 0; round < 2; ++round) {
      expect_code(Code::graph_is_fixed, [&] { t.stream<int>({}); });
      expect_code(Code::graph_is_fixed, [&] { in.map([](int x) { return x; }); });
      expect_code(Code::graph_is_fixed, [&] { in.foreach_rdd([](const Rdd<int>&) {}); });
      expect_code(Code::graph_is_fixed, [&] { in.cache(); });
      expect_code(Code::graph_is_fixed, [&] { in.name("later"); });
      expect_code(Code::graph_is_fixed, [&] { in.window({.length = 2s}); });
      t.streaming().stop();
    }
  });
}

TEST(Lc, LC_09_state_needs_a_checkpoint_directory) {
  StreamTest t{{.without_checkpoint = true}};
  auto in = t.stream<Pair>({{{1, 1}}});
  t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 2s}).name("sums"));
  try {
    t.start();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::no_checkpoint_directory);
    EXPECT_EQ(error.details().operation, "sums");
  }
  EXPECT_EQ(t.streaming().state(), StreamState::initialized);
}

TEST(Lc, LC_09_without_state_none_is_needed_and_none_is_made) {
  StreamTest t{{.without_checkpoint = true}};
  EXPECT_EQ(values(t.run(t.stream<int>({{1}}).window({.length = 2s}), 2)), (Ints{{1}, {1}}));
}

TEST(Lc, LC_12_stop_in_a_listener_is_refused_and_a_request_is_allowed) {
  struct Stops : StreamingListener {
    StreamingContext streaming;
    bool refused = false;
    explicit Stops(StreamingContext context) : streaming(std::move(context)) {}
    void on_batch_completed(const BatchInfo&) override {
      expect_code(Code::stop_in_listener, [&] { streaming.stop(); });
      refused = true;
      streaming.request_stop(false);
    }
  };
  everywhere_in_one_life([](StreamTest& t) {
    auto listener = std::make_shared<Stops>(t.streaming());
    t.streaming().add_listener(listener);
    auto out = t.output(t.stream<int>({{1}, {2}}));
    t.run(5);
    EXPECT_TRUE(listener->refused);
    EXPECT_EQ(values(out.batches()), (Ints{{1}}));
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
    t.streaming().remove_listener(listener.get());
  });
}

TEST(Lc, LC_13_awaiting_a_stopped_stream_returns_at_once_and_one_not_started_is_an_error) {
  everywhere([](StreamTest& t) {
    t.output(t.stream<int>({}));
    expect_code(Code::context_not_started, [&] { t.streaming().await_termination(); });
    t.run(1);
    if (dynamic_cast<HandRuntime*>(&t.runtime()) == nullptr) {
      EXPECT_FALSE(t.streaming().await_termination(10ms));
    }
    t.streaming().stop();
    t.streaming().await_termination();
    EXPECT_TRUE(t.streaming().await_termination(1h));
  });
}

TEST(Lc, LC_15_a_stream_that_is_never_used_is_harmless) {
  everywhere([](StreamTest& t) {
    auto unused = t.stream<int>({{1, 2}}).map([](int x) -> int { throw std::runtime_error(std::to_string(x)); });
    EXPECT_EQ(values(t.run(t.stream<int>({{1}}), 1)), (Ints{{1}}));
  });
}

TEST(Lc, LC_17_a_failed_batch_stops_the_stream_with_its_error) {
  everywhere_in_one_life([](StreamTest& t) {
    int calls = 0;
    t.stream<int>({}).foreach_rdd([&](const Rdd<int>&) {
      if (++calls == 2) throw std::runtime_error("second batch");
    });
    EXPECT_THROW(t.run(5), std::runtime_error);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(t.batches_completed(), 1U);
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
  });
}

TEST(Lc, StopInAnOutputFunctionEndsTheStreamAfterItsBatch) {
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}, {2}, {3}});
    in.foreach_rdd([&](const Rdd<int>& rdd) {
      if (rdd.first() == 2) t.streaming().stop();
    });
    auto out = t.output(in);
    t.run(2);
    t.streaming().await_termination();
    EXPECT_EQ(values(out.batches()), (Ints{{1}, {2}}));
    EXPECT_EQ(t.streaming().state(), StreamState::stopped);
  });
}

TEST(Gs, AStreamThatCannotKeepUpComesToItsEndAllTheSame) {
  HandRuntime runtime;
  StreamTest t{{.runtime = &runtime}};
  std::size_t batches = 0;
  t.stream<int>({}).foreach_rdd([&](const Rdd<int>&) {
    ++batches;
    runtime.advance(2s);  // each batch takes two intervals
  });
  t.run(2);
  t.stop(true);
  EXPECT_GE(batches, 2U);
}

TEST(Sc, SC_04_an_interval_under_a_millisecond_is_refused) {
  Context ctx{{.master = "local"}};
  expect_code(Code::bad_argument, [&] { StreamingContext(ctx, {.batch = 999us}); });
  expect_code(Code::bad_argument, [&] { StreamingContext(ctx, {.batch = -1s}); });
  EXPECT_EQ(StreamingContext(ctx, {}).batch_interval(), 1s);
}

TEST(Bc, BC_01_the_first_batch_is_due_at_the_next_multiple_of_the_interval_of_the_wall_clock) {
  for (const Duration offset : {Duration(0), Duration(1ms), Duration(2999ms)}) {
    HandRuntime runtime(hand_start + offset);
    StreamTest t{{.batch = 3s, .runtime = &runtime}};
    auto out = t.run(t.stream<int>({}), 2);
    const auto multiple = ((hand_start + offset).time_since_epoch() / 3s + 1) * 3s;
    EXPECT_EQ(out[0].time, Time(multiple));
    EXPECT_EQ(out[1].time, Time(multiple + 3s));
  }
}

TEST(Bc, BC_03_a_stream_fires_at_the_multiples_of_its_slide_after_the_zero_time) {
  HandRuntime runtime(Time(1'700'000'001s + 500ms));  // zero time ...001: the slide is counted from there
  StreamTest t{{.runtime = &runtime}};
  auto out = t.run(t.stream<int>({{1}, {2}, {3}, {4}}).window({.length = 2s, .slide = 2s}), 4);
  EXPECT_EQ(values(out), (Ints{{1, 2}, {3, 4}}));
  EXPECT_EQ(out[0].time, Time(1'700'000'003s));
}

TEST(Bc, BC_04_a_late_driver_runs_each_missed_interval_once_in_order) {
  everywhere_in_one_life([](StreamTest& t) {
    auto out = t.output(t.stream<int>({{1}, {2}, {3}, {4}, {5}}));
    t.run(1);
    t.advance(3s);
    t.run(4);
    EXPECT_EQ(values(out.batches()), (Ints{{1}, {2}, {3}, {4}, {5}}));
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(out.batches()[i].time, hand_start + std::chrono::seconds(i + 1));
  });
}

TEST(Bc, IntervalsOfAMillisecondHold) {
  StreamTest t{{.batch = 1ms}};
  auto out = t.output(t.stream<int>({}).count());
  t.run(1000);
  ASSERT_EQ(out.batches().size(), 1000U);
  EXPECT_EQ(out.batches()[999].time, hand_start + 1s);
}

struct Events : StreamingListener {
  std::vector<std::string> told;
  std::vector<BatchInfo> completed;
  void add(const char* what, const BatchInfo& batch) {
    told.push_back(std::string(what) + (batch.scheduling_delay() ? "+scheduling" : "") +
                   (batch.processing_delay() ? "+processing" : "") + (batch.total_delay() ? "+total" : ""));
  }
  void on_streaming_started(Time) override { told.emplace_back("streaming started"); }
  void on_batch_submitted(const BatchInfo& batch) override { add("submitted", batch); }
  void on_batch_started(const BatchInfo& batch) override { add("started", batch); }
  void on_batch_completed(const BatchInfo& batch) override {
    add("completed", batch);
    completed.push_back(batch);
  }
};

TEST(Ls, LS_01_LS_02_and_LS_03_events_come_in_order_with_what_is_known) {
  everywhere_in_one_life([](StreamTest& t) {
    const auto events = std::make_shared<Events>();
    t.streaming().add_listener(events);
    auto in = t.stream<int>({{1, 2, 3}}).name("numbers");
    in.map([](int x) { return x; }).name("same").foreach_rdd([](const Rdd<int>& rdd) { rdd.count(); });
    t.output(in.window({.length = 2s, .slide = 2s}));
    t.run(2);
    EXPECT_EQ(events->told, (std::vector<std::string>{"streaming started", "submitted", "started+scheduling",
                                                      "completed+scheduling+processing+total", "submitted",
                                                      "started+scheduling", "completed+scheduling+processing+total"}));
    const BatchInfo& first = events->completed[0];
    EXPECT_EQ(first.batch_time, hand_start + 1s);
    ASSERT_EQ(first.inputs.size(), 1U);
    EXPECT_EQ(first.inputs[0].name, "numbers");
    EXPECT_EQ(first.inputs[0].records, 3U);
    ASSERT_EQ(first.outputs.size(), 1U);
    EXPECT_EQ(first.outputs[0].id, 0U);
    EXPECT_EQ(first.outputs[0].name, "foreach_rdd same");
    EXPECT_FALSE(first.failed());
    ASSERT_EQ(events->completed[1].outputs.size(), 2U);
    EXPECT_EQ(events->completed[1].inputs[0].records, 0U);
  });
}

TEST(Ls, LS_01_delays_of_a_late_batch_count_from_its_time) {
  HandRuntime runtime;
  StreamTest t{{.runtime = &runtime}};
  const auto events = std::make_shared<Events>();
  t.streaming().add_listener(events);
  bool first = true;
  t.stream<int>({}).foreach_rdd([&](const Rdd<int>&) {
    if (first) runtime.advance(2500ms);
    first = false;
  });
  t.run(3);
  ASSERT_EQ(events->completed.size(), 3U);
  EXPECT_EQ(events->completed[0].scheduling_delay(), 0s);
  EXPECT_EQ(events->completed[0].processing_delay(), 2500ms);
  EXPECT_EQ(events->completed[0].total_delay(), 2500ms);
  EXPECT_EQ(events->completed[1].scheduling_delay(), 1500ms);
  EXPECT_EQ(events->completed[1].total_delay(), 1500ms);
  EXPECT_EQ(events->completed[2].total_delay(), 500ms);
}

TEST(Ls, LS_07_after_stop_and_after_removal_no_event_is_delivered) {
  everywhere_in_one_life([](StreamTest& t) {
    const auto stays = std::make_shared<Events>();
    const auto leaves = std::make_shared<Events>();
    t.streaming().add_listener(stays);
    t.streaming().add_listener(leaves);
    t.output(t.stream<int>({}));
    t.run(1);
    t.streaming().remove_listener(leaves.get());
    t.run(1);
    t.streaming().stop();
    const std::size_t told = stays->told.size();
    if (dynamic_cast<HandRuntime*>(&t.runtime()) == nullptr) t.runtime().wait_for(10s);
    EXPECT_EQ(stays->told.size(), told);
    EXPECT_EQ(stays->completed.size(), 2U);
    EXPECT_EQ(leaves->completed.size(), 1U);
  });
}

TEST(Ls, AListenerThatThrowsStopsTheStream) {
  struct Throws : StreamingListener {
    void on_batch_started(const BatchInfo&) override { throw std::runtime_error("listener"); }
  };
  everywhere([](StreamTest& t) {
    t.streaming().add_listener(std::make_shared<Throws>());
    t.output(t.stream<int>({}));
    EXPECT_THROW(t.run(1), std::runtime_error);
  });
}

}  // namespace
}  // namespace sluice::testing
