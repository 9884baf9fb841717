#include "sluice/api/context.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "sluice/cluster/ray_manager.h"
#include "sluice/cluster/scheduler.h"
#include "sluice/core/text_reader.h"
#include "sluice/runtime/process.h"

namespace sluice {
namespace {

/// What a master's name says.
struct Master {
  std::size_t cores = 0;
  /// Processes with so many cores each; 0: threads of this one.
  std::size_t executors = 0;
  /// Somebody else starts them, and they say how many cores they have.
  bool are_started_elsewhere = false;
  /// Of the Ray cluster that starts them.
  std::string ray_address{};
};

/// The numbers of "NAME[A,B]"; nothing when it is written otherwise.
std::vector<std::size_t> numbers_of(std::string_view master, std::string_view name) {
  if (!master.starts_with(name) || !master.ends_with(']')) return {};
  master.remove_suffix(1);
  master.remove_prefix(name.size());
  if (!master.starts_with('[')) return {};
  std::vector<std::size_t> numbers;
  while (!master.empty()) {
    master.remove_prefix(1);  // '[' or ','
    std::size_t number = 0;
    const auto [stop, error] = std::from_chars(master.data(), master.data() + master.size(), number);
    if (error != std::errc() || number < 1 || number > 4096) return {};
    numbers.push_back(number);
    master.remove_prefix(static_cast<std::size_t>(stop - master.data()));
    if (!master.empty() && !master.starts_with(',')) return {};
  }
  return numbers;
}

/// "ray://HOST:PORT", "ray://HOST:PORT[E]" or "ray://HOST:PORT[E,N]"; on a node "ray://auto" and so on.
std::optional<Master> ray_master_of(const std::string& master) {
  constexpr std::string_view ray = "ray://";
  if (!master.starts_with(ray)) return std::nullopt;
  const bool has_numbers = master.ends_with(']');  // and no address of IPv6, which has a port behind it
  const std::string address = has_numbers ? master.substr(0, master.rfind('[')) : master;
  const std::size_t colon = address.rfind(':');
  const bool has_port = colon > ray.size() && address.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
                        colon + 1 < address.size();
  if (!has_port && address != "ray://auto") return std::nullopt;
  std::vector<std::size_t> numbers = numbers_of(master, address);
  if (has_numbers && (numbers.empty() || numbers.size() > 2)) return std::nullopt;
  if (numbers.empty()) numbers.push_back(2);
  if (numbers.size() == 1) numbers.push_back(1);
  Master result{numbers[1], numbers[0]};
  result.ray_address = address == "ray://auto" ? "auto" : address;
  return result;
}

Master master_of(const std::string& master) {
  if (master == "local") return {1};
  if (master == "local[*]") return {core_count()};
  if (const auto local = numbers_of(master, "local"); local.size() == 1) return {local[0]};
  if (const auto cluster = numbers_of(master, "local-cluster"); cluster.size() == 2) return {cluster[1], cluster[0]};
  if (const auto cluster = numbers_of(master, "cluster"); cluster.size() == 1) return {1, cluster[0], true};
  if (const auto ray = ray_master_of(master)) return *ray;
  throw Error(Code::bad_setting, {.why = "--sluice.master: \"" + master +
                                         "\" is none of local, local[N], local[*], local-cluster[E,N], cluster[E], "
                                         "ray://HOST:PORT[E,N]"});
}

}  // namespace

Context::Context(const ContextOptions& options) {
  detail::SettingsReader settings;
  app_ = settings.text("app", options.app, "sluice");
  detail::EngineOptions engine;
  const Master master = master_of(settings.text("master", options.master, "local[*]"));
  engine.cores = master.cores * std::max<std::size_t>(master.executors, 1);
  partitions_ = settings.number("partitions", options.partitions, 4);
  if (partitions_ > detail::key_groups) {
    throw Error(Code::bad_setting, {.why = "--sluice.partitions: at most " + std::to_string(detail::key_groups)});
  }
  engine.blocks.memory_bytes = settings.number("memory", options.memory_bytes, std::uint64_t{1} << 30);
  Runtime& runtime = options.runtime != nullptr ? *options.runtime : system_runtime();
  engine.blocks.spill_directory = settings.text("spill-directory", options.spill_directory, "/tmp");
  const auto compression =
      detail::compression_of(settings.text("shuffle-compression", options.shuffle_compression, "none"));
  engine.task_tries = static_cast<unsigned>(settings.number("task-tries", options.task_tries, 4));
  engine.hash_seed = settings.number("hash-seed", options.hash_seed, 0);
  engine.encode_tasks = settings.flag("encode-tasks", options.encode_tasks);
  engine.check_views = settings.flag("check-views", options.check_views);
  if (engine.check_views) Arena::set_poison_released(true);
  const auto timeout = std::chrono::milliseconds(
      settings.number("executor-timeout",
                      static_cast<std::uint64_t>(
                          std::chrono::duration_cast<std::chrono::milliseconds>(options.executor_timeout).count()),
                      1000));
  const auto keeps_copies = [&settings](const std::string& name, std::size_t option) {
    const std::uint64_t copies = settings.number(name, option, 2);
    if (copies < 1 || copies > 2) throw Error(Code::bad_setting, {.why = "--sluice." + name + ": 1 or 2"});
    return copies == 2;
  };
  const bool copies_state = keeps_copies("state-copies", options.state_copies);
  const bool copies_blocks = keeps_copies("block-copies", options.block_copies);
  const bool is_on_ray = !master.ray_address.empty();
  // Executors on Ray are told where to connect to, so that any port will do.
  const std::string listen = settings.text("listen", options.listen, is_on_ray ? "0.0.0.0:0" : "127.0.0.1:7077");
  // Ray starts processes within seconds, but it may have to add nodes first.
  const std::chrono::seconds wait(settings.number("executor-wait", 0, is_on_ray ? 300 : 30));
  const std::string certs = settings.text("certs", options.certs, "");
  const bool is_simulated = &runtime != &system_runtime();
  if (master.are_started_elsewhere && certs.empty() && !is_simulated) {
    throw Error(Code::bad_setting,
                {.why = "--sluice.certs: cluster[E] needs a directory that `sluice certs` has made"});
  }
  const bool speculation = settings.flag("speculation", options.speculation);
  const std::chrono::milliseconds speculation_min(settings.number("speculation-min", 0, 100));
  detail::ScalingOptions scaling;
  scaling.is_on = settings.flag("dynamic-allocation", options.dynamic_allocation);
  scaling.interval = std::chrono::seconds(settings.number("scaling-interval", 0, 60));
  scaling.up = static_cast<double>(settings.number("scaling-up", 0, 90)) / 100;
  scaling.down = static_cast<double>(settings.number("scaling-down", 0, 30)) / 100;
  scaling.min = settings.number("executors-min", 0, 0);
  scaling.max = settings.number("executors-max", 0, std::max(core_count(), master.executors));
  if (scaling.is_on && (master.executors == 0 || master.are_started_elsewhere)) {
    throw Error(Code::bad_setting,
                {.why = "--sluice.dynamic-allocation: only local-cluster[E,N] and ray:// start executors"});
  }
  if (is_on_ray && is_simulated) {
    throw Error(Code::bad_setting, {.why = "--sluice.master: executors on Ray live in the real world alone"});
  }
  detail::Engine::MakeRunner make_runner;
  if (master.executors > 0) {
    make_runner = [&](detail::Engine& made) {
      detail::ClusterOptions cluster;
      cluster.executors = master.executors;
      cluster.cores = master.are_started_elsewhere ? 0 : static_cast<std::uint32_t>(master.cores);
      cluster.memory_bytes = made.options().blocks.memory_bytes;
      cluster.spill_directory = made.options().blocks.spill_directory;
      cluster.compression = compression;
      cluster.task_tries = made.options().task_tries;
      cluster.executor_timeout = timeout;
      cluster.start_time_max = wait;
      cluster.copy_state = copies_state;
      cluster.copy_blocks = copies_blocks;
      cluster.scaling = scaling;
      cluster.speculation = speculation;
      cluster.speculation_min = speculation_min;
      // Processes live in the real world alone.
      std::unique_ptr<detail::ClusterManager> manager;
      if (master.are_started_elsewhere) {
        manager = detail::make_started_elsewhere(
            is_simulated ? detail::simulated_network(runtime) : detail::secured_network(runtime, certs),
            Address{listen});
      } else if (is_on_ray) {
        manager = detail::make_ray_executors(runtime, {master.ray_address, certs, Address{listen}, wait});
      } else if (!is_simulated) {
        manager = detail::make_local_processes(runtime);
      } else {
        manager = std::make_unique<detail::ThreadExecutors>(runtime);
      }
      return std::make_unique<detail::ClusterScheduler>(made, std::move(manager), cluster);
    };
  }
  engine_ = std::make_shared<detail::Engine>(runtime, std::move(engine), make_runner);
  too_long_counter_ = engine_->next_id();
  settings_ = settings.in_force();
}

Rdd<std::string_view> Context::text_file(const std::string& path, std::size_t split_bytes, Place where) const {
  const auto info = engine_->info("text_file", where);
  FileSystem& files = engine_->runtime().files();
  const auto found = files.stat(path);
  if (!found.has_value()) {
    throw Error(Code::not_readable, {.why = path + ": no such file", .operation = info->name, .where = where});
  }
  std::vector<FileInfo> inputs{*found};
  if (found->is_directory) {
    inputs = files.list(path).value_or(std::vector<FileInfo>{});
    std::erase_if(inputs, [](const FileInfo& file) {
      return file.is_directory || file.path.substr(file.path.rfind('/') + 1).starts_with('.');
    });
  }
  std::vector<detail::Shipped<detail::Source>> sources;
  detail::TextReadOptions options;
  options.too_long_counter = too_long_counter_;
  const auto add = [&](detail::TextRange range) {
    sources.push_back(detail::ship<detail::Source, detail::TextRangeSource>(
        *info, std::vector<detail::TextRange>{std::move(range)}, options));
  };
  for (const FileInfo& file : inputs) {
    if (detail::is_compressed(file.path)) {
      add({.path = file.path});
      continue;
    }
    const std::uint64_t splits = std::max<std::uint64_t>(1, file.size_bytes / std::max<std::size_t>(split_bytes, 1));
    for (std::uint64_t s = 0; s < splits; ++s) {
      add({file.path, file.size_bytes * s / splits,
           s + 1 == splits ? ~std::uint64_t{0} : file.size_bytes * (s + 1) / splits, file.size_bytes});
    }
  }
  if (sources.empty()) return empty_rdd<std::string_view>(where);
  const std::size_t partitions = sources.size();
  return {engine_, detail::make_source(info, type_ops<std::string_view>(), std::move(sources), partitions),
          default_partitions(), info};
}

Rdd<std::string_view> Context::text_blocks(std::vector<MemoryBlock> blocks, Place where) const {
  const auto info = engine_->info("text_blocks", where);
  if (blocks.empty()) return empty_rdd<std::string_view>(where);
  std::vector<detail::Shipped<detail::Source>> sources;
  for (MemoryBlock& block : blocks) {
    sources.push_back(detail::ship<detail::Source, detail::MemoryTextSource>(*info, std::move(block)));
  }
  const std::size_t partitions = sources.size();
  return {engine_, detail::make_source(info, type_ops<std::string_view>(), std::move(sources), partitions),
          default_partitions(), info};
}

}  // namespace sluice
