#include "benchmarks/cluster.h"

#include <algorithm>
#include <csignal>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "benchmarks/data.h"
#include "benchmarks/socket.h"
#include "benchmarks/stream.h"
#include "sluice/cluster/scheduler.h"

namespace bench {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t parts = 2;
const std::string on_processes = "local-cluster[2,1]";

/// Of five pairs, the median of the ratios of throughput; the two take turns.
template <class Run>
Figure ratio(const char* name, const Run& run_on) {
  std::vector<double> ratios;
  for (int round = 0; round < 5; ++round) {
    const Sample by_threads = run_on(threads(parts));
    const Sample by_processes = run_on(on_processes);
    if (by_threads.result != by_processes.result) return {std::string(name) + ": results differ", 0, ""};
    ratios.push_back(median(by_threads.batch_seconds) / median(by_processes.batch_seconds));
  }
  return {name, median(ratios), ""};
}

/// The lines of each batch, in a directory of its own with a file a part.
void write_files(const TextData& text, const std::string& directory) {
  for (std::size_t batch = 0; batch < text.slices.size(); ++batch) {
    const std::string in = directory + "/" + std::to_string(batch);
    std::filesystem::create_directories(in);
    for (std::size_t part = 0; part < text.slices[batch].size(); ++part) {
      const std::string_view slice = text.slices[batch][part];
      std::ofstream(in + "/" + std::to_string(part)).write(slice.data(), static_cast<std::streamsize>(slice.size()));
    }
  }
}

struct Sizes {
  std::size_t batches;
  std::size_t events;
  std::uint64_t keys;
};

/// Events of a part of a batch, made where the task runs at its first use.
auto events_of(const sluice::Context& context, const Sizes& sizes, std::size_t batch) {
  std::vector<int> indices;
  for (std::size_t part = 0; part < parts; ++part) indices.push_back(static_cast<int>(part));
  const auto data =
      sluice::per_process<EventData>([sizes] { return EventData(sizes.batches, sizes.events, sizes.keys); });
  return context.parallelize(indices, parts).map_partitions([data, batch](sluice::Partition<int>& partition) {
    const EventData& events = data.get();
    const Event* const all = events.batch(batch % events.batches);
    const std::size_t begin = events.events_a_batch * partition.index() / parts;
    const std::size_t end = events.events_a_batch * (partition.index() + 1) / parts;
    return std::vector<Event>(all + begin, all + end);
  });
}

/// Batches of a word count, in milliseconds from the batch's time to its end.
std::vector<double> delays_ms(const std::string& master, sluice::Duration interval, std::size_t records,
                              std::size_t batches) {
  Stream stream(master, parts, {.batch = interval});
  sluice::RddQueue<std::string_view> queue;
  std::int64_t words = 0;
  collect(word_count(stream.ssc.queue_stream(queue).name("lines")), words);
  const auto text = SmallWordCount::lines(records);
  for (std::size_t i = 0; records > 0 && i < batches; ++i) {
    queue.push(stream.context.text_blocks({{text, std::string_view(*text)}}));
  }
  std::vector<double> delays;
  stream.run([&](const sluice::BatchInfo& batch) {
    delays.push_back(std::chrono::duration<double, std::milli>(*batch.processing_delay()).count());
    return delays.size() < batches;
  });
  return delays;
}

struct Deaths {
  /// Total delays of batches, in intervals.
  std::vector<double> delays;
  /// From the death to the end of the first batch after it, in seconds.
  double seconds_without = 0;
};

/// Batches at 100 ms, 1 M keys, 1 % of them changed, a checkpoint each second; an executor gets a signal in the middle.
Deaths run_with_a_death(std::size_t state_copies, int signal, std::size_t keys, std::size_t batches,
                        std::size_t killed_after) {
  const Scratch scratch;
  Stream stream({.app = "bench", .master = on_processes, .partitions = parts, .state_copies = state_copies},
                {.batch = 100ms, .checkpoint = scratch.path(), .checkpoint_interval = 1s});
  // Can be made again, as what is read from files: the first batch has all keys.
  const auto numbers = std::make_shared<std::map<sluice::Time, std::size_t>>();
  const auto events = [context = stream.context, numbers, keys, batches](const sluice::Rdd<Event>&, sluice::Time time) {
    const std::size_t batch = numbers->emplace(time, numbers->size()).first->second;
    return events_of(context, batch == 0 ? Sizes{1, keys, keys} : Sizes{batches, keys / 100, keys}, batch);
  };
  std::int64_t sum = 0;
  collect(sums_of(stream.ssc.queue_stream(sluice::RddQueue<Event>()).name("in").transform(events)).changes().count(),
          sum);
  auto& executors = dynamic_cast<sluice::detail::ClusterScheduler&>(stream.context.engine()->runner()).members();
  Deaths deaths;
  std::optional<std::chrono::steady_clock::time_point> killed;
  stream.run([&](const sluice::BatchInfo& batch) {
    deaths.delays.push_back(std::chrono::duration<double>(*batch.total_delay()).count() / 0.1);
    if (killed.has_value() && deaths.seconds_without == 0) deaths.seconds_without = seconds_since(*killed);
    if (deaths.delays.size() == killed_after) {
      killed = std::chrono::steady_clock::now();
      ::kill(static_cast<int>(executors.pids().at(0)), signal);
    }
    return deaths.delays.size() < batches;
  });
  return deaths;
}

/// So many batches after the death all are in time again.
double batches_until_steady(const std::vector<double>& delays, std::size_t death) {
  const auto end = delays.rend() - static_cast<std::ptrdiff_t>(death);
  return static_cast<double>(end - std::find_if(delays.rbegin(), end, [](double delay) { return delay > 0.9; }));
}

}  // namespace

std::vector<Figure> cluster_figures(bool quick) {
  const std::size_t scale = quick ? 5 : 1;
  const Plan plan{.threads = parts, .warm_batches = 8, .batches = quick ? 16U : 24U};
  std::vector<Figure> figures;
  {
    const Scratch files;
    const TextData text(8, 250'000 / scale, parts);
    write_files(text, files.path());
    const auto lines = [&](const sluice::Context& context, std::size_t batch) {
      return context.text_file(files.path() + "/" + std::to_string(batch % text.slices.size()), std::size_t{1} << 30);
    };
    figures.push_back(ratio("W1 on local-cluster[2,1] / local[2]", [&](const std::string& master) {
      return run_batches<std::string_view>({.master = master}, plan, lines, grep);
    }));
    figures.push_back(ratio("W2", [&](const std::string& master) {
      return run_batches<std::string_view>({.master = master}, plan, lines, word_count);
    }));
  }
  // Before the sockets: after them threads of this process are slower.
  const Sizes sizes{5, 500'000 / scale, 1'000'000 / scale};
  for (const std::size_t copies : {2, 1}) {
    const char* const name = copies == 2 ? "W4, two executors have each key's state" : "W4, one executor has it";
    figures.push_back(ratio(name, [&](const std::string& master) {
      return run_batches<Event>(
          {.master = master, .state_copies = copies}, plan,
          [&](const sluice::Context& context, std::size_t batch) { return events_of(context, sizes, batch); },
          [](const sluice::DStream<Event>& input) { return sums_of(input).changes().count(); });
    }));
  }
  for (const bool with_log : {false, true}) {
    const TextData text(4, 50'000, 2);
    std::vector<double> by_threads, by_processes, ratios;
    for (int round = 0; round < (quick ? 1 : 3); ++round) {
      by_threads.push_back(socket_rate(text, threads(2), with_log, quick ? 8 : 16, grep));
      by_processes.push_back(socket_rate(text, on_processes, with_log, quick ? 8 : 16, grep));
      ratios.push_back(by_processes.back() / by_threads.back());
    }
    figures.push_back(
        {with_log ? "  with the write-ahead log" : "W1 over a socket, by threads", median(by_threads), "MB/s"});
    figures.push_back({"    its blocks on two executors", median(by_processes), "MB/s"});
    figures.push_back({"    by that of threads", median(ratios), ""});
  }
  const std::size_t small = quick ? 300 : 3'000;
  const auto empty = delays_ms(on_processes, 10ms, 0, small);
  figures.push_back({"empty batch there, median", median(empty), "ms"});
  figures.push_back({"  p99", quantile(empty, 0.99), "ms"});
  const auto thousand = delays_ms(on_processes, 10ms, 1'000, 2 * small);
  figures.push_back({"1,000 records every 10 ms there, median", median(thousand), "ms"});
  figures.push_back({"  p99", quantile(thousand, 0.99), "ms"});
  constexpr std::size_t death = 30;
  struct Death {
    std::size_t copies;
    int signal;
    const char* what;
  };
  for (const auto& [copies, signal, what] :
       {Death{2, SIGKILL, "executor killed"}, Death{2, SIGSTOP, "executor stopped"},
        Death{1, SIGKILL, "killed, and there is no copy of its state"}}) {
    const Deaths deaths = run_with_a_death(copies, signal, 1'000'000 / scale, 60, death);
    const std::vector<double>& delays = deaths.delays;
    figures.push_back(
        {std::string("100 ms, state of 1 M keys, ") + what + ": usual delay", median(delays), "intervals"});
    figures.push_back({"  longest delay", *std::max_element(delays.begin() + death, delays.end()), "intervals"});
    figures.push_back({"  seconds until the next batch is done", deaths.seconds_without, "s"});
    figures.push_back({"  batches until all are in time again", batches_until_steady(delays, death), ""});
  }
  return figures;
}

}  // namespace bench
