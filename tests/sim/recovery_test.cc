// A stream that is killed at any step, on a disk that loses what was not synced or that fails, and started again until
// it has done its work: what its outputs saw must be what a stream that was never killed gives.
//
// What outputs saw is kept outside of the simulated machine, as users keep it. A batch may be seen twice, if the crash
// came before it was noted; then with the same records.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <source_location>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"
#include "sluice/testkit/mortal_machine.h"
#include "tests/scenario/cluster_jobs.h"
#include "tests/scenario/lives.h"
#include "tests/sim/simulated_database.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;
using Number = std::int64_t;
using Numbers = std::vector<Number>;
using Sums = std::map<Number, Number>;

constexpr Number received = 200;         // 0..199 come through a receiver
constexpr Number first_in_files = 1000;  // and from there on in files
constexpr Duration interval = 100ms;
constexpr int window_batches = 4;

struct World;
World* world = nullptr;

/// What is outside of the machine that is killed.
struct World {
  /// With `of_faults` the program's disk may fail.
  explicit World(MortalMachine& machine, bool of_faults = false)
      : files(machine.sim.files()),
        disk(machine.disk),
        runtime(of_faults ? static_cast<Runtime&>(machine.on_faulty_disk) : machine.sim) {
    world = this;
  }
  ~World() { world = nullptr; }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Random random{0};
  /// What the writer of files writes to; it does not fail.
  FileSystem& files;
  FaultyFileSystem& disk;
  /// What the program runs on.
  Runtime& runtime;
  /// By batch.
  std::map<Time, Numbers> raw;
  std::map<Time, Sums> totals;
  std::map<Time, Sums> idle_totals;
  std::map<Time, Sums> window;
  std::map<Time, Numbers> plain_window;
  std::string wrong;
  std::string failure;
  /// Number of files that their writer has published.
  Number published = 0;
  bool drained = false;
  std::uint64_t kills = 0;
  /// 0: the program runs in one process.
  std::size_t executors = 0;
  std::uint64_t executor_kills = 0;
  /// Executors outlive the program.
  bool executors_are_outside = false;
};

constexpr const char* driver_address = "127.0.0.1:7077";

/// Notes what an output saw; seen twice it must be the same.
template <class T>
void note(std::map<Time, T>& seen, const char* output, Time time, T records) {
  const auto [place, is_new] = seen.emplace(time, records);
  if (is_new || place->second == records || !world->wrong.empty()) return;
  world->wrong =
      std::string(output) + " of batch " + std::to_string(to_milliseconds(time)) + " ms differs when it is seen again";
}

Sums sums_of(const Records<std::pair<Number, Number>>& records) {
  Sums sums;
  for (std::size_t i = 0; i < records.size(); ++i) sums[records[i].first] += records[i].second;
  return sums;
}

std::string batches() {
  std::string text;
  for (const auto& [time, records] : world->raw) {
    text += "\n" + std::to_string(to_milliseconds(time)) + " ms:";
    for (const Number n : records) text += " " + std::to_string(n);
  }
  return text;
}

/// A source that can be read again from where it was acknowledged: it gives numbers in order.
class Counting : public Receiver<Number> {
 public:
  void run(ReceiverContext<Number>& context) override {
    const std::string position = context.last_position();
    Number next = position.empty() ? 0 : std::stoll(position);
    while (next < received) {
      if (!context.wait_for(std::chrono::milliseconds(world->random.below(120)))) return;
      Numbers some(1 + world->random.below(20));
      std::iota(some.begin(), some.end(), next);
      while (some.back() >= received) some.pop_back();
      next += static_cast<Number>(some.size());
      if (!context.store(some, std::to_string(next))) return;
    }
    context.end_of_input();
    while (context.wait_for(1s)) {
    }
  }
};

std::string master_of(std::uint64_t seed) {
  const std::string executors = std::to_string(world->executors);
  if (world->executors == 0) return "local[3]";
  if (world->executors_are_outside) return "cluster[" + executors + "]";
  return "local-cluster[" + executors + "," + std::to_string(1 + seed % 2) + "]";
}

void end_an_executor(sluice::detail::ThreadExecutors& executors) {
  const std::size_t executor = world->random.below(world->executors);
  world->random.chance(0.3) ? executors.leave(executor) : executors.kill(executor);
}

/// The program under test. Runs until its input is used up, or it is killed.
void live(std::uint64_t seed, bool with_files) {
  FileSystem& files = world->files;
  files.make_directories("/in");
  Context ctx{{.app = "recovery",
               .master = master_of(seed),
               .partitions = 2,
               .spill_directory = "/spill",
               .encode_tasks = seed % 3 == 0,
               .check_views = seed % 3 == 0,
               // Kept once, a part of the state is lost with its executor.
               .state_copies = seed % 4 == 3 ? 1U : 2U,
               .listen = driver_address,
               .runtime = &world->runtime}};
  StreamingContext ssc(ctx, {.batch = interval,
                             .checkpoint = "/ckpt",
                             .checkpoint_interval = interval * static_cast<int>(1 + seed % 5),
                             .missed = seed % 2 == 0 ? MissedBatches::merge : MissedBatches::run});
  auto numbers =
      ssc.receiver_stream<Number>([] { return std::make_unique<Counting>(); }, {.restart_delay = 10ms}).name("numbers");
  if (with_files) {
    numbers = numbers.union_with(ssc.text_file_stream("/in", {.existing_files = true}).map([](std::string_view line) {
      return Number{std::stoll(std::string(line))};
    }));
  }
  numbers
      .foreach_rdd([](const Rdd<Number>& rdd, Time time) {
        Numbers all = rdd.collect().to_vector();
        std::sort(all.begin(), all.end());
        note(world->raw, "raw", time, all);
      })
      .name("raw");
  const auto pairs = numbers.map([](Number n) { return std::pair(n % 7, n); });
  const auto sum = [](std::span<const Number> now, std::optional<Number> before) {
    return std::optional(std::accumulate(now.begin(), now.end(), before.value_or(0)));
  };
  const auto totals = pairs.update_state_by_key(sum).name("totals");
  const auto idle_totals = pairs.update_state_by_key(sum, {.idle_keeps_state = true}).name("idle totals");
  const auto window = pairs
                          .reduce_by_key_and_window(std::plus{}, std::minus{},
                                                    {.length = interval * window_batches, .slide = interval * 2})
                          .name("window");
  if (seed % 4 == 1 && world->executors == 0) {  // not of the fixture
    // Snapshots during which batches go on.
    const auto open = [](const sluice::detail::DatabasePlace& place) -> std::unique_ptr<sluice::detail::StateDatabase> {
      return std::make_unique<SimulatedDatabase>(
          place, [] { world->runtime.wait_for(std::chrono::milliseconds(world->random.below(250))); });
    };
    const StateBackend database(open, {.memory_bytes = std::size_t{64} << seed % 8}, nullptr);
    totals.state(database);
    idle_totals.state(database);
    window.state(database);
  }
  totals.foreach_rdd([](const auto& rdd, Time time) { note(world->totals, "totals", time, sums_of(rdd.collect())); })
      .name("see totals");
  idle_totals
      .foreach_rdd(
          [](const auto& rdd, Time time) { note(world->idle_totals, "idle totals", time, sums_of(rdd.collect())); })
      .name("see idle totals");
  window.foreach_rdd([](const auto& rdd, Time time) { note(world->window, "window", time, sums_of(rdd.collect())); })
      .name("see window");
  numbers.filter([](Number n) { return n % 3 == 0; })
      .window({.length = interval * window_batches})
      .name("plain window")
      .foreach_rdd([](const Rdd<Number>& rdd, Time time) {
        Numbers all = rdd.collect().to_vector();
        std::sort(all.begin(), all.end());
        note(world->plain_window, "plain window", time, all);
      })
      .name("see plain window");

  ssc.start();
  const Number files_in_all = with_files ? 6 : 0;
  const std::size_t needed = static_cast<std::size_t>(received + files_in_all * 3);
  std::size_t idle = 0;
  for (std::size_t waits = 0; idle < 3; ++waits) {
    ASSERT_LT(waits, 2000U) << "the stream does not come to its end" << batches() << world->failure;
    // A directory that cannot be read is no end, and is looked at again.
    if (waits == 100) world->disk.mend();
    if (world->published < files_in_all && world->random.chance(0.5)) {
      const Number first = first_in_files + world->published * 3;
      const std::string text =
          std::to_string(first) + "\n" + std::to_string(first + 1) + "\n" + std::to_string(first + 2) + "\n";
      // If it is there, its writer was killed before it could count it.
      const std::string path = "/in/file-" + std::to_string(world->published);
      if (!files.stat(path).has_value()) {
        files.publish(path, text);
      } else {
        files.sync_directory("/in");
      }
      ++world->published;
    }
    if (world->executor_kills > 0 && !world->executors_are_outside && world->random.chance(0.4)) {
      --world->executor_kills;
      ++world->kills;
      end_an_executor(dynamic_cast<sluice::detail::ThreadExecutors&>(scheduler_of(ctx).manager()));
      if (world->random.chance(0.3)) continue;  // and another one at once
    }
    ASSERT_FALSE(ssc.await_termination(std::chrono::milliseconds(world->random.below(150))));
    std::size_t seen = 0;
    for (const auto& [time, records] : world->raw) seen += records.size();
    idle = seen >= needed ? idle + 1 : 0;
  }
  ssc.stop({.graceful = true});
  ssc.await_termination();
  world->drained = true;
}

/// The same; when a job has lost four executors the program ends, and is started again. State that is lost is restored.
void live_or_lose_executors(std::uint64_t seed, bool with_files) {
  try {
    live(seed, with_files);
  } catch (const Error& error) {
    if (world->executors == 0 || error.code() != Code::process_failed) throw;
  }
}

Sums summed(const Numbers& numbers) {
  Sums sums;
  for (const Number n : numbers) sums[n % 7] += n;
  return sums;
}

/// Compares what outputs saw with a plain computation over the raw records of the batches. Of those to `known_until`
/// only the raw records are known.
void expect_right(bool with_files, Time known_until = {}) {
  ASSERT_EQ(world->wrong, "");
  Numbers all;
  for (const auto& [time, records] : world->raw) all.insert(all.end(), records.begin(), records.end());
  std::sort(all.begin(), all.end());
  Numbers expected(received);
  std::iota(expected.begin(), expected.end(), 0);
  for (Number n = 0; with_files && n < 18; ++n) expected.push_back(first_in_files + n);
  ASSERT_EQ(all, expected) << "each record once, and in one batch" << batches();

  Sums totals;
  for (const auto& [time, records] : world->raw) {
    for (const Number n : records) totals[n % 7] += n;
    if (time <= known_until) continue;
    ASSERT_EQ(world->totals.count(time), 1U) << to_milliseconds(time);
    ASSERT_EQ(world->totals[time], totals) << to_milliseconds(time) << batches();
    ASSERT_EQ(world->idle_totals[time], totals) << to_milliseconds(time);
    Numbers in_window;
    for (const auto& [other, others] : world->raw) {
      if (other > time - interval * window_batches && other <= time) {
        in_window.insert(in_window.end(), others.begin(), others.end());
      }
    }
    if (world->window.contains(time)) {
      Sums expected_window = summed(in_window);
      ASSERT_EQ(world->window[time], expected_window) << to_milliseconds(time);
    }
    std::erase_if(in_window, [](Number n) { return n % 3 != 0; });
    std::sort(in_window.begin(), in_window.end());
    ASSERT_EQ(world->plain_window[time], in_window) << to_milliseconds(time);
  }
  ASSERT_GT(world->window.size(), 1U);
}

/// One operation, from some time on, once or for good.
FileFailure random_failure(Random& random) {
  // Those that a stream does often, several times.
  constexpr FileOperation operations[] = {FileOperation::append,
                                          FileOperation::append,
                                          FileOperation::append,
                                          FileOperation::write_at,
                                          FileOperation::sync,
                                          FileOperation::sync,
                                          FileOperation::create,
                                          FileOperation::rename,
                                          FileOperation::rename_new,
                                          FileOperation::open,
                                          FileOperation::list,
                                          FileOperation::read_at,
                                          FileOperation::make_directories,
                                          FileOperation::remove,
                                          FileOperation::stat,
                                          FileOperation::sync_directory,
                                          FileOperation::open_append,
                                          FileOperation::truncate};
  constexpr FileFault faults[] = {FileFault::disk_full, FileFault::io_error, FileFault::short_write};
  constexpr const char* places[] = {"", "", "", "", "/journal/", "/wal/", "/checkpoint-", "/state-", "/spill", "/in"};
  return {.operation = operations[random.below(std::size(operations))],
          .path_part = places[random.below(std::size(places))],
          .nth = 1 + random.below(1 << random.below(7)),
          .times = random.chance(0.5) ? 1U : 1'000'000U,
          .fault = faults[random.below(std::size(faults))]};
}

std::uint64_t kills_delivered = 0;
std::uint64_t faults_met = 0;

/// Returns the trace.
std::uint64_t survive(std::uint64_t seed, Ending ending) {
  MortalMachine machine(seed, {.step_time_max = seed % 4 == 0 ? Duration(20us) : Duration(0)});
  Simulation& sim = machine.sim;
  World outside(machine, ending == Ending::of_the_disk);
  outside.random = Random(seed * 77 + 1);
  const bool with_files = seed % 3 != 1;
  std::uint64_t kills = outside.random.below(ending == Ending::of_the_disk ? 12 : 5);
  if (ending == Ending::of_executors) {
    outside.executors = 2 + seed % 3;
    outside.executor_kills = 1 + outside.random.below(6);
    kills = outside.random.below(3);
  }
  while (!outside.drained) {
    outside.disk.mend();
    if (kills > 0 && ending == Ending::of_the_disk) {
      const FileFailure failure = random_failure(outside.random);
      outside.failure = "\nfailure: operation " + std::to_string(static_cast<int>(failure.operation)) + " of \"" +
                        failure.path_part + "\", from " + std::to_string(failure.nth) + " on, times " +
                        std::to_string(failure.times);
      outside.disk.fail(failure);
      --kills;  // it may fail where nothing ends, or not come to it
    } else if (kills > 0 && ending == Ending::at_a_kill_point) {
      machine.kill_at_point(1 + outside.random.below(1 << (2 + outside.random.below(9))));
    } else if (kills > 0) {
      sim.crash_after(1 + outside.random.below(1 << (4 + outside.random.below(10))));
    }
    switch (machine.run([&] { live_or_lose_executors(seed, with_files); })) {
      case MortalMachine::End::done: break;
      case MortalMachine::End::killed:
        if (ending != Ending::of_the_disk) --kills;
        ++outside.kills;
        if (outside.random.chance(0.7)) sim.crash_disk();
        break;
      case MortalMachine::End::disk_failed:
        EXPECT_EQ(ending, Ending::of_the_disk);
        ++outside.kills;
        if (outside.random.chance(0.3)) sim.crash_disk();
        break;
    }
    if (::testing::Test::HasFailure()) return 0;
  }
  expect_right(with_files);
  kills_delivered += outside.kills;
  faults_met += outside.disk.failures();
  return sim.trace_hash();
}

/// The driver alone is killed, at any step, and its executors now and then: they are processes of their own, and the
/// driver that comes next goes on with what they have.
std::uint64_t survive_of_the_driver(std::uint64_t seed) {
  MortalMachine machine(seed, {.step_time_max = seed % 4 == 0 ? Duration(20us) : Duration(0)});
  Simulation& sim = machine.sim;
  World outside(machine);
  outside.random = Random(seed * 77 + 1);
  outside.executors = 2 + seed % 3;
  outside.executors_are_outside = true;
  const bool with_files = seed % 3 != 1;
  std::uint64_t kills = 1 + outside.random.below(4);
  outside.executor_kills = outside.random.below(6);
  sim.run([&] {
    sluice::detail::ThreadExecutors executors(sim, sluice::detail::simulated_network(sim));
    sluice::detail::ExecutorOptions each;
    each.driver = driver_address;
    each.token = executors.network().token;
    each.spill_directory = "/spill";
    executors.run_executors(each, outside.executors);
    const auto death = sim.spawn("death", [&] {
      for (; outside.executor_kills > 0 && !outside.drained; --outside.executor_kills) {
        sim.wait_for(std::chrono::milliseconds(outside.random.below(1500)));
        if (outside.random.chance(0.5)) {
          end_an_executor(executors);
        } else {  // perhaps beyond the next driver's life
          const auto time = std::chrono::milliseconds(outside.random.below(4000));
          executors.cut_off(outside.random.below(outside.executors), time);
        }
      }
    });
    while (!outside.drained && !::testing::Test::HasFailure()) {
      std::optional<std::uint64_t> killed_after;
      if (kills > 0) killed_after = 1 + outside.random.below(1 << (8 + outside.random.below(8)));
      if (!sim.run_process([&] { live_or_lose_executors(seed, with_files); }, killed_after)) {
        --kills;
        ++outside.kills;
        // Its machine alone: executors may know of batches that the journal does not know of.
        if (outside.random.chance(0.5)) sim.crash_disk();
      }
    }
    death->join();
  });
  if (outside.drained) expect_right(with_files);
  kills_delivered += outside.kills;
  return sim.trace_hash();
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t seeds = 20;
#else
constexpr std::uint64_t seeds = 1000;
#endif

void survive_all(Ending ending) {
  kills_delivered = faults_met = 0;
  // Of a disk that fails, lives are short.
  const auto [first, end] = seeds_to_run(seeds);
  const std::uint64_t asked = (end - first) * (ending == Ending::of_the_disk ? 4 : 1);
  for (std::uint64_t seed = first; seed < first + asked; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto once = [&] {
      return ending == Ending::of_the_driver ? survive_of_the_driver(seed) : survive(seed, ending);
    };
    const std::uint64_t trace = once();
    if (::testing::Test::HasFailure()) return;
    if (seed % 100 == 0) {
      EXPECT_EQ(once(), trace);
    }
  }
  std::printf("%llu ends, %llu faults\n", static_cast<unsigned long long>(kills_delivered),
              static_cast<unsigned long long>(faults_met));
  // Some kills and many failures of a disk are not come to, and some end nothing.
  EXPECT_GT(2 * kills_delivered, asked);
}

TEST(RecoverySimulated, NothingIsLostOrSeenTwiceWhenKilledAtAnyStep) { survive_all(Ending::at_any_step); }
// With a log, a block is read from there when all executors that had it are gone.
TEST(RecoverySimulated, NothingIsLostOrSeenTwiceWhenExecutorsAndTheirReceiversAreKilled) {
  survive_all(Ending::of_executors);
}
TEST(RecoverySimulated, NothingIsLostOrSeenTwiceWhenExecutorsOutliveTheirDriver) { survive_all(Ending::of_the_driver); }
TEST(RecoverySimulated, NothingIsLostOrSeenTwiceWhenKilledAtAnyKillPoint) { survive_all(Ending::at_a_kill_point); }
TEST(RecoverySimulated, NothingIsLostOrSeenTwiceWhenTheDiskFails) { survive_all(Ending::of_the_disk); }

// ---- A directory that version 1 of the formats has left

constexpr std::uint64_t fixture_seed = 2;

/// In the sources: the checkpoint directory of a `live` that was killed, and what its raw output had seen.
std::string fixture_path() {
  const std::string here = std::source_location::current().file_name();
  return here.substr(0, here.rfind('/')) + "/directory_v1";
}

void copy_all(FileSystem& from, const std::string& from_path, FileSystem& to, const std::string& to_path) {
  to.make_directories(to_path);
  const std::vector<FileInfo> entries = from.list(from_path).value();
  for (const FileInfo& file : entries) {
    const std::string target = to_path + "/" + std::string(base_name(file.path));
    if (file.is_directory) {
      copy_all(from, file.path, to, target);
    } else {
      to.publish(target, read_file(from, file.path));
    }
  }
}

// What later versions write may differ, what they read may not: the fixture is never written anew, and neither names
// nor types of `live` may change.
TEST(RecoverySimulated, DISABLED_WritesTheFixture) {
  MortalMachine machine(fixture_seed);
  Simulation& sim = machine.sim;
  FileSystem& files = system_runtime().files();
  ASSERT_FALSE(files.stat(fixture_path()).has_value()) << fixture_path() << " is there and stays as it is";
  World outside(machine);
  machine.kill_at_point(
      1, [&](std::string_view place) { return outside.raw.size() >= 11 && place == "driver.before_complete_record"; });
  EXPECT_EQ(machine.run([&] { live(fixture_seed, true); }), MortalMachine::End::killed);
  sim.run([&] { copy_all(sim.files(), "/ckpt", files, fixture_path() + "/ckpt"); });
  std::string seen;
  for (const auto& [time, records] : outside.raw) {
    seen += std::to_string(to_milliseconds(time));
    for (const Number n : records) seen += " " + std::to_string(n);
    seen += "\n";
  }
  files.publish(fixture_path() + "/seen", seen);
}

TEST(RecoverySimulated, GoesOnFromADirectoryOfVersion1) {
  MortalMachine machine(fixture_seed, {.start = Time(1'700'000'100s)});
  Simulation& sim = machine.sim;
  FileSystem& files = system_runtime().files();
  sim.run([&] {
    copy_all(files, fixture_path() + "/ckpt", sim.files(), "/ckpt");
    sim.files().make_directories("/in");
  });
  World outside(machine);
  // All were in batches before the newest checkpoint, and then removed: copies would be other files.
  outside.published = 6;
  std::istringstream seen(read_file(files, fixture_path() + "/seen"));
  for (std::string line; std::getline(seen, line);) {
    std::istringstream numbers(line);
    std::int64_t time = 0;
    numbers >> time;
    Numbers& records = outside.raw[Time(std::chrono::milliseconds(time))];
    for (Number n = 0; numbers >> n;) records.push_back(n);
  }
  ASSERT_GT(outside.raw.size(), 10U);
  const Time last = outside.raw.rbegin()->first;
  const OutsideSetting accept("SLUICE_ACCEPT_REPLAY_WITH_NEW_CODE", "true");
  sim.run([&] { live(fixture_seed, true); });
  // The last batch was not complete.
  ASSERT_TRUE(outside.totals.contains(last));
  ASSERT_FALSE(outside.totals.contains(outside.raw.begin()->first));
  expect_right(true, last - interval);
}

}  // namespace
}  // namespace sluice::testing
