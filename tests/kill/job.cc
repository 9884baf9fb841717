// The program that tests/kill/harness.py kills: every kind of operator under get_or_create, on the real clock.
//
//     sluice_kill_job --directory=DIR --inputs=follow,files,source,socket --batch=50 ... (see `main`)
//
// With --sinks=rolling,text,sqlite,postgres the counts of each batch also go to DIR/out/rolling, DIR/out/text, to the
// table `counts` of DIR/out/counts.db, and to that of the database --postgres=CONNECTION.
//
// A line is "INPUT NUMBER KEY VALUE"; one whose key is "#" is left out by the program. Each output of a batch becomes
// files DIR/out/NAME/BATCH-PARTITION, each written under another name and then renamed. A file that is there already is
// compared: the same batch must give the same bytes however often it is run. The ledger has a line for each write, in
// order, so that the harness sees what was run again and when.
//
// The input of each batch is among these outputs ("raw"): from it alone the harness computes all others.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#ifdef SLUICE_KILL_HAS_sqlite3
#include "sluice/connect/sqlite.h"
#endif
#ifdef SLUICE_KILL_HAS_libpqxx
#include "sluice/connect/postgres.h"
#endif
#include "sluice/runtime/process.h"
#include "sluice/sluice.h"
#include "tests/kill/offset_source.h"

namespace sluice::kill {
namespace {

using namespace std::chrono_literals;

// ---- What is written

void to_ledger(const std::string& directory, const std::string& line) {
  static const int ledger = ::open((directory + "/ledger").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  // One write in append mode: lines of several threads and processes do not mix.
  if (::write(ledger, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    throw std::runtime_error("the ledger cannot be written");
  }
}

std::optional<std::string> read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void write_whole(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  out.close();
  if (!out) throw std::runtime_error(path + " cannot be written");
}

/// Makes a file of an output visible at once, or finds it as it should be.
void publish(const std::string& directory, const std::string& name, Time batch, std::size_t partition,
             const std::string& content) {
  static std::atomic<unsigned> count{0};
  const std::string unique = std::to_string(::getpid()) + "-" + std::to_string(++count);
  const std::string file = std::to_string(to_milliseconds(batch)) + "-" + std::to_string(partition);
  const std::string path = directory + "/out/" + name + "/" + file;
  const char* what = "new";
  if (const auto there = read_whole(path)) what = *there == content ? "same" : "other";
  // What differs is kept beside the first one, for the harness to find.
  const std::string to = *what == 'o' ? path + ".other-" + unique : path;
  const std::string temporary = directory + "/out/" + name + "/.tmp-" + unique;
  if (*what != 's') {
    write_whole(temporary, content);
    if (::rename(temporary.c_str(), to.c_str()) != 0) throw std::runtime_error(to + " cannot be renamed");
  }
  to_ledger(directory, std::to_string(to_milliseconds(batch)) + " " + name + " " + std::to_string(partition) + " " +
                           what + " " + std::to_string(::getpid()) + "\n");
}

std::string as_line(std::string_view line) { return std::string(line) + "\n"; }
template <class K, class V>
std::string as_line(const std::pair<K, V>& pair) {
  std::ostringstream out;
  out << pair.first << " " << pair.second << "\n";
  return out.str();
}

/// One file a partition, written by the tasks; then one that says how many there are.
template <class T>
auto write_in_tasks(const std::string& directory, const char* name) {
  return [directory, name = std::string(name)](const Rdd<T>& rdd, Time batch) {
    rdd.foreach_partition(
        with(directory, name, [](const std::string& in, const std::string& to, Partition<T>& partition) {
          std::string content;
          for (const T& record : partition) content += as_line(record);
          publish(in, to, partition.batch_time(), partition.index(), content);
        }));
    publish(directory, name + "_done", batch, 0, std::to_string(rdd.partitions()));
  };
}

/// One file, written by the driver.
template <class T>
auto write_in_driver(const std::string& directory, const char* name) {
  return [directory, name = std::string(name)](const Rdd<T>& rdd, Time batch) {
    std::string content;
    for (const T& record : rdd.collect()) content += as_line(record);
    publish(directory, name, batch, 0, content);
  };
}

/// A sink that knows what it has: the newest batch is in a file of its own, and said to the journal.
class BatchSink : public Sink<std::pair<std::string_view, long>> {
  using Record = std::pair<std::string_view, long>;

  class Writer : public SinkWriter<Record> {
   public:
    void write(std::span<const Record> records) override {
      for (const Record& record : records) content_ += as_line(record);
    }
    std::string finish() override { return content_; }

   private:
    std::string content_;
  };
  class Writers : public SinkWriters<Record> {
   public:
    std::unique_ptr<SinkWriter<Record>> open(const SinkPartition&) const override { return std::make_unique<Writer>(); }
  };

 public:
  explicit BatchSink(std::string directory) : directory_(std::move(directory)) {}
  Contract contract() const override { return Contract::idempotent; }
  std::string argument() const override { return "batches"; }
  void start(const SinkStart& start) override {
    to_ledger(directory_,
              "0 sink_said 0 " + (start.said.empty() ? "-" : start.said) + " " + std::to_string(::getpid()) + "\n");
  }
  detail::Shipped<SinkWriters<Record>> writers() const override { return ship_writers<Record, Writers>(); }
  std::string commit(const SinkBatch& batch, const std::vector<std::string>& parts) override {
    std::string content;
    for (const std::string& part : parts) content += part;
    publish(directory_, "sink", batch.batch, 0, content);
    return std::to_string(to_milliseconds(batch.batch));
  }

 private:
  const std::string directory_;
};

constexpr long failing_batches_max = 4;

/// Fails the first `fail_times` tries of one batch in `every`, counted over restarts; of a few batches only, so that
/// the stream comes to its end.
void fail_sometimes(const std::string& out_directory, Time batch, long interval_ms, long every, long fail_times) {
  const long long ms = to_milliseconds(batch);
  if (ms / interval_ms % every != 0) return;
  const std::string path = out_directory + "/fails/" + std::to_string(ms);
  const std::string tries = read_whole(path).value_or("");
  if (std::ssize(tries) >= fail_times) return;
  const std::filesystem::directory_iterator batches(out_directory + "/fails");
  if (tries.empty() && std::distance(begin(batches), end(batches)) >= failing_batches_max) return;
  write_whole(path, tries + ".");
  throw std::runtime_error("a failure on purpose");
}

// ---- What is computed

struct Event {
  std::string_view key;
  long value = 0;
};

std::optional<Event> parse(std::string_view line) {
  const std::size_t first = line.find(' ');
  const std::size_t second = line.find(' ', first + 1);
  const std::size_t third = line.find(' ', second + 1);
  if (first == line.npos || second == line.npos || third == line.npos) return std::nullopt;
  Event event{line.substr(second + 1, third - second - 1)};
  const char* const end = line.data() + line.size();
  if (std::from_chars(line.data() + third + 1, end, event.value).ptr != end || event.key == "#") return std::nullopt;
  return event;
}

constexpr std::int64_t chain_modulus = 1'000'000'007;
constexpr std::int64_t idle_batches_max = 12;

/// Depends on the order of values, and on each batch without any.
struct Total {
  std::int64_t chain = 0;
  std::int64_t count = 0;
  std::int64_t idle = 0;
};
std::ostream& operator<<(std::ostream& out, const Total& total) {
  return out << total.chain << " " << total.count << " " << total.idle;
}

std::optional<Total> update_total(std::span<const long> values, std::optional<Total> before) {
  Total total = before.value_or(Total{});
  total.idle = values.empty() ? total.idle + 1 : 0;
  if (total.idle > idle_batches_max) return std::nullopt;
  for (const long value : values) {
    total.chain = (total.chain * 31 + value) % chain_modulus;
    ++total.count;
  }
  return total;
}

/// The last values of a key, as text; a value that ends in 7 forgets them, so that keys go and come back.
std::optional<std::string> update_last(std::span<const long> values, std::optional<std::string> before) {
  std::optional<std::string> last = std::move(before);
  for (const long value : values) {
    if (value % 10 == 7) {
      last.reset();
      continue;
    }
    std::string text = last.value_or("") + "," + std::to_string(value);
    if (text.size() > 40) text.erase(0, text.size() - 40);
    last = std::move(text);
  }
  return last;
}

/// The command line.
class Arguments {
 public:
  Arguments(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const std::string argument = argv[i];
      const std::size_t equals = argument.find('=');
      if (!argument.starts_with("--") || equals == argument.npos) throw std::runtime_error("what is " + argument);
      values_[argument.substr(2, equals - 2)] = argument.substr(equals + 1);
    }
  }
  std::string text(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) throw std::runtime_error("--" + name + "= is missing");
    return found->second;
  }
  long number(const std::string& name) const { return std::stol(text(name)); }

 private:
  std::map<std::string, std::string> values_;
};

/// Batch time in milliseconds, key, count.
struct CountRow {
  std::int64_t batch = 0;
  std::string_view key;
  std::int64_t count = 0;
};

/// Sinks that promise to have each batch once, for the harness to see that they do.
void declare_sinks(const DStream<std::pair<std::string_view, long>>& counts, const Arguments& arguments) {
  using Pair = std::pair<std::string_view, long>;
  const auto rows = counts.transform([](const Rdd<Pair>& rdd, Time time) {
    return rdd.map(with(std::int64_t{to_milliseconds(time)},
                        [](std::int64_t batch, const Pair& pair) { return CountRow{batch, pair.first, pair.second}; }));
  });
  const auto to_row = [](const CountRow& row) { return std::tuple(row.batch, row.key, row.count); };
  const std::string out_directory = arguments.text("directory") + "/out";
  const SqlTable table{.name = "counts", .columns = {"batch", "word", "n"}};
  std::istringstream names(arguments.text("sinks"));
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "rolling") {
      rows.map([](const CountRow& row) {
            return std::to_string(row.batch) + " " + std::string(row.key) + " " + std::to_string(row.count);
          })
          .save_to(rolling_files(out_directory + "/rolling",
                                 {.bytes = static_cast<std::uint64_t>(arguments.number("rolling-bytes")),
                                  .age = std::chrono::milliseconds(arguments.number("rolling-age")),
                                  .suffix = ".txt"}))
          .name("rolling");
    } else if (name == "text") {
      rows.map([](const CountRow& row) {
            return std::to_string(row.batch) + " " + std::string(row.key) + " " + std::to_string(row.count);
          })
          .save_as_text_files(out_directory + "/text/at")
          .name("text");
#ifdef SLUICE_KILL_HAS_sqlite3
    } else if (name == "sqlite") {
      rows.save_to(sqlite_sink<CountRow>(out_directory + "/counts.db", table, to_row)).name("sqlite");
#endif
#ifdef SLUICE_KILL_HAS_libpqxx
    } else if (name == "postgres") {
      rows.save_to(postgres_sink<CountRow>(arguments.text("postgres"), table, to_row)).name("postgres");
#endif
    } else {
      throw std::runtime_error("no sink " + name + " in this build");
    }
  }
}

void declare(StreamingContext& ssc, const Arguments& arguments) {
  const std::string directory = arguments.text("directory");
  const auto batch = std::chrono::milliseconds(arguments.number("batch"));
  std::vector<DStream<std::string_view>> inputs;
  std::istringstream names(arguments.text("inputs"));
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "follow") {
      inputs.push_back(ssc.follow_file(directory + "/log", {.from_start = true, .rotation_wait = 4 * batch}));
    } else if (name == "files") {
      inputs.push_back(ssc.text_file_stream(directory + "/files", {.existing_files = true}));
    } else if (name == "source") {
      const auto port = static_cast<std::uint16_t>(arguments.number("source-port"));
      in_addr host{};
      if (::inet_pton(AF_INET, arguments.text("host").c_str(), &host) != 1) throw std::runtime_error("what is --host");
      inputs.push_back(ssc.receiver_stream<std::string_view>(
          [host, port] { return std::make_unique<OffsetReceiver>(host, port); }, {.restart_delay = 50ms}));
    } else if (name == "socket") {
      inputs.push_back(
          ssc.socket_text_stream(arguments.text("host"), static_cast<std::uint16_t>(arguments.number("socket-port"))));
    } else {
      throw std::runtime_error("no input " + name);
    }
  }
  const auto lines = ssc.union_of(inputs);
  const WindowOptions window{.length = batch * arguments.number("window"), .slide = batch * arguments.number("slide")};

  lines.foreach_rdd(write_in_tasks<std::string_view>(directory, "raw")).name("raw");
  const auto pairs =
      lines.filter([](std::string_view line) { return parse(line).has_value(); }).map([](std::string_view line) {
        const Event event = parse(line).value_or(Event{});
        return std::pair<std::string_view, long>(event.key, event.value);
      });
  using Pair = std::pair<std::string_view, long>;
  const auto counts = pairs.map([](const Pair& pair) { return Pair(pair.first, 1L); }).reduce_by_key(std::plus{});
  counts.foreach_rdd(write_in_tasks<Pair>(directory, "counts")).name("counts");
  counts.save_to(std::make_shared<BatchSink>(directory)).name("sink");
  declare_sinks(counts, arguments);

  const auto totals = pairs.update_state_by_key(update_total).name("totals");
  totals.foreach_rdd(write_in_driver<std::pair<std::string_view, Total>>(directory, "totals")).name("totals out");
  const auto last = pairs.update_state_by_key(update_last, {.idle_keeps_state = true}).name("last");
  // With little memory, so that it writes and compacts.
  const bool in_rocksdb = arguments.text("state-in") == "rocksdb";
  const StateBackend on_disk = rocksdb({.memory_bytes = std::size_t{8} << 20});
  if (in_rocksdb) last.state(on_disk);
  last.foreach_rdd(write_in_driver<std::pair<std::string_view, std::string>>(directory, "last")).name("last out");
  last.changes()
      .foreach_rdd(write_in_tasks<std::pair<std::string_view, std::string>>(directory, "changes"))
      .name("changes out");

  const auto by_number =
      pairs.map([](const Pair& pair) { return std::pair<long, long>(pair.second % 10, pair.second); });
  const auto sums = by_number.reduce_by_key_and_window(std::plus{}, std::minus{}, window).name("window with inverse");
  if (in_rocksdb) sums.state(on_disk);
  sums.foreach_rdd(write_in_driver<std::pair<long, long>>(directory, "winv")).name("winv out");
  pairs.reduce_by_key_and_window([](long a, long b) { return std::max(a, b); }, window)
      .name("window")
      .foreach_rdd(write_in_tasks<Pair>(directory, "wplain"))
      .name("wplain out");
  // Right over an input: what can be read again is not part of checkpoints.
  inputs[0]
      .window(window)
      .name("window over input")
      .foreach_rdd(write_in_driver<std::string_view>(directory, "wraw"))
      .name("wraw out");

  const long interval_ms = arguments.number("batch");
  const long fail_every = arguments.number("fail-every");
  const long fail_times = arguments.number("fail-times");
  if (fail_every == 0) return;
  counts
      .foreach_rdd([=, write = write_in_driver<Pair>(directory, "fragile")](const Rdd<Pair>& rdd, Time time) {
        fail_sometimes(directory + "/out", time, interval_ms, fail_every, fail_times);
        write(rdd, time);
      })
      .name("fragile");
}

void run(const Arguments& arguments) {
  const std::string directory = arguments.text("directory");
  for (const char* name : {"", "raw", "raw_done", "counts", "counts_done", "sink", "totals", "last", "changes",
                           "changes_done", "winv", "wplain", "wplain_done", "wraw", "fragile", "fails"}) {
    ::mkdir((directory + "/out/" + name).c_str(), 0755);
  }
  ProgramOptions options;
  options.app = "kill";
  options.master = arguments.text("master");
  options.batch = std::chrono::milliseconds(arguments.number("batch"));
  options.context.partitions = static_cast<std::size_t>(arguments.number("partitions"));
  options.streaming.checkpoint_interval = options.batch * arguments.number("checkpoint-batches");
  options.streaming.block_interval = std::chrono::milliseconds(arguments.number("block-interval"));
  if (arguments.text("missed") == "run") options.streaming.missed = MissedBatches::run;
  if (arguments.text("failed-output") == "go-on") options.streaming.failed_output = FailedOutput::go_on;
  const auto ssc = StreamingContext::get_or_create(
      directory + "/checkpoint", [&arguments](StreamingContext& made) { declare(made, arguments); }, options);
  const SignalWatch watch([&ssc](int) { ssc.request_stop(); });
  to_ledger(directory, "0 start 0 - " + std::to_string(::getpid()) + "\n");
  ssc.start();
  ssc.await_termination();
  to_ledger(directory, "0 stop 0 - " + std::to_string(::getpid()) + "\n");
}

}  // namespace
}  // namespace sluice::kill

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);  // a peer that is gone is an error of `send`
  try {
    sluice::kill::run(sluice::kill::Arguments(argc, argv));
    return 0;
  } catch (const sluice::Error& error) {
    std::fprintf(stderr, "sluice_kill_job: %s\n", error.what());
    // The executors that had something have died together; the harness starts it again, as a supervisor would.
    const bool lost = error.code() == sluice::Code::state_lost || error.code() == sluice::Code::state_is_gone ||
                      error.code() == sluice::Code::process_failed;
    if (lost) return 5;
    return std::string_view(error.what()).find("a failure on purpose") == std::string_view::npos ? 4 : 3;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sluice_kill_job: %s\n", error.what());
    // An output that fails on purpose may end the stream; the harness starts it again.
    return std::string_view(error.what()).find("a failure on purpose") == std::string_view::npos ? 4 : 3;
  }
}
