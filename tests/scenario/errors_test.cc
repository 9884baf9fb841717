// own main
// Every error a program can provoke, as its user sees it: compared with errors.golden. Codes that nothing throws yet
// are left out: 113, 115 to 119, 206, 207 (listeners are told of receivers' errors), 209, 210, 303, 306, 414.
//
//     sluice_scenario_errors_test --update      writes errors.golden anew; read the difference before you commit it
#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <typeinfo>

#include "sluice/core/plan.h"
#include "tests/scenario/matrix.h"

namespace sluice::testing {

bool update = false;

namespace {

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (std::size_t at = text.find(what); !what.empty() && at != std::string::npos; at = text.find(what, at)) {
    text.replace(at, what.size(), with);
    at += with.size();
  }
  return text;
}

/// Runs what must fail and keeps its text.
class Collected {
 public:
  explicit Collected(std::string directory) : directory_(std::move(directory)) {}
  void operator()(const std::string& title, const std::function<void()>& provoke) {
    std::string what = "NO ERROR";
    try {
      provoke();
    } catch (const std::exception& error) {
      what = error.what();
    }
    EXPECT_NE(what, "NO ERROR") << title;
    const std::string here = std::source_location::current().file_name();
    what = replaced(what, here.substr(0, here.rfind("tests/scenario/")), "");
    text_ += "# " + title + "\n" + replaced(what, directory_, "TEMP") + "\n\n";
  }
  const std::string& text() const { return text_; }

 private:
  const std::string directory_;
  std::string text_;
};

struct Waits : Receiver<int> {
  void run(ReceiverContext<int>& context) override {
    while (context.wait_for(24h)) {
    }
  }
};

using Numbers = std::vector<int>;

void declaring(Collected& error) {
  StreamTest t;
  auto in = t.stream<int>({{1}});
  auto pairs = t.stream<Pair>({{{1, 1}}});
  error("a window's length is no multiple", [&] { in.window({.length = 1500ms}); });
  error("a window's length is nothing", [&] { in.window({}); });
  error("a window's slide is no multiple", [&] { in.window({.length = 2s, .slide = 1500ms}); });
  error("a window with an inverse",
        [&] { pairs.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 3s, .slide = -1s}); });
  error("streams of different slides", [&] { in.union_with(in.window({.length = 2s, .slide = 2s})); });
  error("a join of different slides", [&] { pairs.join(pairs.window({.length = 2s, .slide = 2s})); });
  error("transform_with of different slides", [&] {
    in.transform_with(in.window({.length = 2s, .slide = 2s}), [](const Rdd<int>& a, const Rdd<int>&) { return a; });
  });
  error("a union of nothing", [&] { t.streaming().union_of<int>({}); });
  error("streams of two contexts", [&] {
    StreamTest other;
    in.union_with(other.stream<int>({}));
  });
  error("a captured pointer", [&] {
    const auto value = std::make_unique<int>(1);
    int* const pointer = value.get();
    in.map([pointer](int x) { return x + *pointer; });
  });
  error("no partition to coalesce to", [&] { in.coalesce(0); });
}

void of_contexts(Collected& error) {
  error("a master that is none", [] { Context ctx{{.master = "yarn"}}; });
  error("a master without cores", [] { Context ctx{{.master = "local[0]"}}; });
  error("too many partitions", [] { Context ctx{{.master = "local", .partitions = 1 << 20}}; });
  error("an interval too short", [] {
    Context ctx{{.master = "local"}};
    StreamingContext(ctx, {.batch = 10us});
  });
  error("an action on an empty RDD", [] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{}).reduce(std::plus{});
  });
  error("the first of an empty RDD", [] {
    Context ctx{{.master = "local"}};
    ctx.empty_rdd<int>().first();
  });
  error("RDDs of two contexts", [] {
    Context a{{.master = "local"}};
    Context b{{.master = "local"}};
    a.parallelize(Numbers{1}).union_with(b.parallelize(Numbers{1}));
  });
  error("no partition to repartition to", [] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{1}).repartition(0);
  });
  error("a block that is no whole record", [] {
    Context ctx{{.master = "local"}};
    static const std::string bytes = "abcde";
    ctx.record_blocks<int>({{nullptr, bytes}});
  });
  error("a function that throws, in a record", [] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{1, 2, 3}, 1)
        .map([](int x) -> int {
          if (x == 2) throw std::runtime_error("cannot divide\nby two");
          return x;
        })
        .name("divide")
        .collect();
  });
  error("a function of a reduction that throws", [] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{1, 2}, 1).reduce([](int, int) -> int { throw std::runtime_error("no sum"); });
  });
  error("something thrown that is no std::exception", [] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{1}, 1).foreach ([](int) { throw 5; });
  });
  error("an RDD inside a task", [] {
    Context ctx{{.master = "local"}};
    static std::optional<Rdd<int>> global;
    global = ctx.parallelize(Numbers{1}, 1);
    const auto rdd = ctx.parallelize(Numbers{1}, 1).map([](int x) { return x + static_cast<int>(global->count()); });
    struct Reset {
      ~Reset() { global.reset(); }
    } reset;
    rdd.collect();
  });
}

void of_life_cycle(Collected& error) {
  error("no output", [] { StreamTest().start(); });
  error("state without a checkpoint directory", [] {
    StreamTest t{{.without_checkpoint = true}};
    t.output(t.stream<Pair>({})
                 .update_state_by_key([](std::span<const int>, std::optional<int> s) { return s; })
                 .name("totals"));
    t.start();
  });
  error("start after stop", [] {
    StreamTest t;
    t.output(t.stream<int>({}));
    t.streaming().stop();
    t.start();
  });
  error("an operator after start", [] {
    StreamTest t;
    auto in = t.stream<int>({});
    t.output(in);
    t.run(1);
    in.count();
  });
  error("an input after stop", [] {
    StreamTest t;
    t.output(t.stream<int>({}));
    t.run(1);
    t.stop();
    t.stream<int>({});
  });
  error("all cores taken by receivers", [] {
    StreamTest t{{.cores = 1}};
    t.output(t.streaming().receiver_stream<int>([] { return std::make_unique<Waits>(); }));
    t.start();
  });
  error("stop in a listener", [] {
    struct Stops : StreamingListener {
      StreamTest& t;
      explicit Stops(StreamTest& test) : t(test) {}
      void on_batch_completed(const BatchInfo&) override { t.streaming().stop(); }
    };
    StreamTest t;
    t.streaming().add_listener(std::make_shared<Stops>(t));
    t.output(t.stream<int>({}));
    t.run(1);
  });
  error("two streams with one directory", [] {
    HandRuntime runtime;
    StreamTest a{{.runtime = &runtime, .checkpoint = "/tmp/sluice-errors"}};
    StreamTest b{{.runtime = &runtime, .checkpoint = "/tmp/sluice-errors"}};
    a.output(a.stream<int>({}));
    b.output(b.stream<int>({}));
    a.start();
    b.start();
  });
  error("awaiting what was not started", [] { StreamTest().streaming().await_termination(); });
  error("a graceful stop that takes too long", [] {
    Simulation sim(1);
    sim.run([&] {
      StreamTest t{{.runtime = &sim}};
      t.stream<int>({}).foreach_rdd([&](const Rdd<int>&) { sim.wait_for(10s); });
      t.advance();
      sim.wait_for(10ms);
      t.streaming().stop({.graceful = true, .timeout = 2s});
    });
  });
  error("state of a batch that has ended", [] {
    StreamTest t;
    std::vector<Rdd<Pair>> kept;
    t.stream<Pair>({{{1, 1}}})
        .update_state_by_key([](std::span<const int>, std::optional<int>) { return std::optional(1); })
        .name("totals")
        .foreach_rdd([&](const Rdd<Pair>& rdd) {
          kept.push_back(rdd);
          kept[0].count();
        });
    t.run(2);
  });
  error("an output function that throws", [] {
    StreamTest t;
    t.stream<int>({}).foreach_rdd([](const Rdd<int>&) { throw std::runtime_error("the sink is full"); });
    t.run(1);
  });
  error("an output function that throws an error of sluice", [] {
    StreamTest t;
    t.stream<int>({}).foreach_rdd([&](const Rdd<int>&) { t.runtime().files().open_append("/proc/version/x"); });
    t.run(1);
  });
  error("an output of which a task fails", [] {
    StreamTest t;
    t.output(t.stream<int>({{1}}).map([](int) -> int { throw std::runtime_error("no"); }).name("refuses"));
    t.run(1);
  });
  error("a function given to transform that throws", [] {
    StreamTest t;
    t.output(t.stream<int>({}).transform([](const Rdd<int>&) -> Rdd<int> { throw std::runtime_error("no table"); }));
    t.run(1);
  });
  error("an action after a stop that does not wait", [] {
    StreamTest t;
    std::exception_ptr seen;
    t.stream<int>({{1}}).foreach_rdd([&](const Rdd<int>& rdd) {
      t.streaming().request_stop(false);
      try {
        rdd.count();
      } catch (...) {
        seen = std::current_exception();
      }
    });
    t.run(1);
    std::rethrow_exception(seen);
  });
}

void of_files_and_bytes(Collected& error, const std::string& directory) {
  FileSystem& files = system_runtime().files();
  files.make_directories(directory);
  const std::string file = directory + "/lines";
  files.publish(file, std::string("a\nb\n"));
  error("a text file that is not there", [&] {
    Context ctx{{.master = "local"}};
    ctx.text_file(directory + "/none");
  });
  error("a text file that became shorter", [&] {
    Context ctx{{.master = "local"}};
    const auto lines = ctx.text_file(file);
    files.open_append(file)->truncate(1);
    lines.collect();
  });
  error("a text file that is no gzip", [&] {
    Context ctx{{.master = "local"}};
    files.publish(directory + "/x.gz", std::string("this is plain text"));
    ctx.text_file(directory + "/x.gz").collect();
  });
  error("a text file whose compressed data end too early", [&] {
    Context ctx{{.master = "local"}};
    files.publish(directory + "/short.gz", std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10));
    ctx.text_file(directory + "/short.gz").collect();
  });
  error("a file over the limit of what is read at once", [&] {
    files.publish(directory + "/long", std::string("12345"));
    read_file(files, directory + "/long", 4);
  });
  error("a followed file that is a directory", [&] {
    StreamTest t;
    t.output(t.streaming().follow_file(directory).name("log"));
    t.start();
  });
  error("a stream of a directory that is a file", [&] {
    StreamTest t;
    t.output(t.streaming().text_file_stream(file));
    t.start();
  });
  error("writing below a file", [&] {
    Context ctx{{.master = "local"}};
    ctx.parallelize(Numbers{1}).save_as_text_files(file + "/out");
  });
  error("a file of an output that cannot be made", [&] {
    Context ctx{{.master = "local"}};
    files.make_directories(directory + "/out/.part-00000.3.unfinished");
    files.make_directories(directory + "/out/part-00000");
    ctx.parallelize(Numbers{1}, 1).save_as_text_files(directory + "/out");
  });
  error("a stream's output below a file", [&] {
    StreamTest t;
    t.stream<int>({}).save_as_text_files(file + "/out");
    t.run(1);
  });
  error("a task of another build", [] {
    Encoder bytes;
    bytes.u64(123);
    bytes.u64(0);
    const std::string_view view = bytes.view();
    Decoder in(view);
    sluice::detail::decode_address(typeid(int), in);
  });
  files.remove_all(directory);
  files.remove_all("/tmp/sluice-errors");
}

void of_network_and_processes(Collected& error) {
  Transport& transport = system_runtime().transport();
  error("nobody listens there", [&] { transport.connect(Address::tcp("127.0.0.1", 1), Time::max()); });
  error("an address that is none", [&] { transport.connect({"127.0.0.1"}, Time::max()); });
  error("listening to everybody", [&] { transport.listen(Address::tcp("0.0.0.0", 0)); });
  error("a task that ends its executors", [] {
    Context ctx{{.master = "local-cluster[1,1]"}};
    const auto rdd = ctx.parallelize(Numbers{1}, 1).map([](int x) {
      if (x == 1) std::_Exit(7);
      return x;
    });
    rdd.collect();
  });
}

TEST(Errors, AreAsInTheGoldenFile) {
  const std::string directory = "/tmp/sluice-errors-" + std::to_string(system_runtime().random_seed());
  Collected error(directory);
  declaring(error);
  of_contexts(error);
  of_life_cycle(error);
  of_files_and_bytes(error, directory);
  of_network_and_processes(error);
  const std::string here = std::source_location::current().file_name();
  const std::string golden = here.substr(0, here.rfind('/')) + "/errors.golden";
  FileSystem& files = system_runtime().files();
  if (update) files.publish(golden, error.text());
  EXPECT_EQ(error.text(), read_file(files, golden));
}

}  // namespace
}  // namespace sluice::testing

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) sluice::testing::update |= std::string_view(argv[i]) == "--update";
  return RUN_ALL_TESTS();
}
