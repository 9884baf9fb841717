#include "sluice/stream/checkpointer.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <variant>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/state_chain.h"

namespace sluice::detail {
namespace {

// Chains are merged when their deltas have more bytes than their base, but not for less than this, or when they are
// this long.
constexpr std::uint64_t merge_bytes_min = 1 << 20;
constexpr std::size_t chain_length_max = 16;
// Checkpoints kept besides the newest, so that a damaged one is not the end.
constexpr std::size_t kept_besides = 1;

}  // namespace

// Invariant: the thread works on the front of `jobs`, which it takes out when it is done with it.
struct Checkpointer::State {
  struct Begin {
    Manifest manifest;
    std::uint64_t journal_end;
    bool whole;
  };
  struct Add {
    std::uint32_t operator_index;
    std::vector<StateBlock> blocks;
  };
  struct AddSnapshot {
    std::function<StateSnapshot()> make;
  };
  struct End {};
  struct Abandon {};
  using Job = std::variant<Begin, Add, AddSnapshot, End, Abandon>;

  State(Runtime& runtime_, Log& journal_, Options options_)
      : runtime(runtime_), journal(journal_), options(std::move(options_)), changed(runtime.condition()) {}

  Runtime& runtime;
  Log& journal;
  const Options options;

  std::mutex mutex;  // guards what follows
  std::unique_ptr<Condition> changed;
  std::deque<Job> jobs;
  bool ending = false;
  std::exception_ptr error;
  std::uint64_t pending_bytes = 0;
  std::optional<Time> oldest_kept;

  // The thread's own.
  Manifest manifest;
  std::uint64_t journal_end = 0;
  std::unique_ptr<StateFileWriter> writer;
  std::vector<StateFileInfo> chain;
  std::uint64_t file_count = 0;

  std::unique_ptr<Thread> thread;

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      while (jobs.empty() && !ending) changed->wait(lock);
      if (ending) break;
      Job& job = jobs.front();
      lock.unlock();
      std::exception_ptr failure;
      try {
        std::visit([this](auto& what) { work(what); }, job);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (auto* add = std::get_if<Add>(&job)) {
        for (const StateBlock& block : add->blocks) pending_bytes -= block.bytes.size();
      }
      jobs.pop_front();
      if (failure != nullptr) {
        if (error == nullptr) error = failure;
        break;
      }
      changed->notify_all();
    }
    lock.unlock();
    writer = nullptr;
    lock.lock();
    ending = true;
    jobs.clear();
    changed->notify_all();
  }

  FileSystem& files() { return runtime.files(); }
  std::string state_name(const char* kind) {
    char name[80];
    std::snprintf(name, sizeof name, "state-%015lld-%06llu-%04llu.%s", to_milliseconds(manifest.time),
                  static_cast<unsigned long long>(options.epoch), static_cast<unsigned long long>(++file_count), kind);
    return name;
  }

  void work(Begin& begin) {
    manifest = std::move(begin.manifest);
    journal_end = begin.journal_end;
    if (begin.whole) chain.clear();
    writer = std::make_unique<StateFileWriter>(files(), options.directory, state_name(chain.empty() ? "base" : "delta"),
                                               chain.empty(), manifest.operators);
  }
  void work(Add& add) {
    for (const StateBlock& block : add.blocks) writer->add(add.operator_index, block);
  }
  void work(AddSnapshot& add) { manifest.snapshots.push_back(add.make()); }
  void work(End&) {
    kill_point("checkpoint.mid_write");
    chain.push_back(writer->finish());
    writer = nullptr;
    journal.wait_durable(journal_end);  // C1
    if (options.fenced && options.fenced()) throw Error(Code::fenced, {.why = options.directory});
    manifest.chain = chain;
    write_manifest(files(), options.directory, manifest);
    remove_old();
    merge_if_worth();
  }

  // Its file is removed with the next checkpoint.
  void work(Abandon&) { writer = nullptr; }

  // The newest ones stay, and those that reach as far back as batches are to be kept.
  void remove_old() {
    const std::vector<std::string> paths = list_manifests(files(), options.directory);
    std::vector<Manifest> kept;
    std::set<std::string> files_kept;
    bool reaches_back = false;
    for (const std::string& path : paths) {
      Manifest each;
      try {
        each = read_manifest(files(), path);
      } catch (const Error& error) {
        // One that cannot be read now may be whole, and so its files must not be taken for nobody's (C2).
        if (!is_damage(error)) throw;
        // Damaged: no recovery will use it. It stays for whoever wants to see what has happened to it, as long as those
        // beside it, whose files it may share.
        if (kept.size() > kept_besides) files().remove(path);
        continue;
      }
      if (kept.size() > kept_besides && reaches_back) {
        kill_point("checkpoint.before_removal");
        files().remove(path);
        continue;
      }
      reaches_back = reaches_back || each.time + options.keep <= manifest.time;
      for (const StateFileInfo& file : each.chain) files_kept.insert(file.name);
      for (const StateSnapshot& snapshot : each.snapshots) files_kept.insert(snapshot.directory);
      kept.push_back(std::move(each));
    }
    // A chain that is about to be written to, and the file that a merge has just made.
    for (const StateFileInfo& file : chain) files_kept.insert(file.name);
    const auto listed = files().list(options.directory);
    for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
      const std::string name(base_name(file.path));
      if (file.is_directory) {
        if (!name.starts_with(snapshot_prefix) || files_kept.contains(name)) continue;
        kill_point("checkpoint.mid_removal");
        files().remove_all(file.path);
        continue;
      }
      const bool unfinished = name.starts_with(".state-") || name.starts_with(".checkpoint-");
      if (unfinished || (name.starts_with("state-") && !files_kept.contains(name))) {
        kill_point("checkpoint.mid_removal");
        files().remove(file.path);
      }
    }
    const std::lock_guard lock(mutex);
    oldest_kept = kept.empty() ? manifest.time : kept.back().time;
  }

  void merge_if_worth() {
    std::uint64_t base = 0;
    std::uint64_t deltas = 0;
    for (const StateFileInfo& file : chain) (file.base ? base : deltas) += file.bytes;
    if (chain.size() < chain_length_max && (deltas <= base || deltas < merge_bytes_min)) return;
    if (chain.size() == 1) return;
    kill_point("checkpoint.before_merge");
    const StateFileInfo merged = merge_chain(files(), options.directory, manifest, state_name("base"));
    // The next checkpoint goes on from there; this one has the files that it names.
    chain = {merged};
  }
};

Checkpointer::Checkpointer(Runtime& runtime, Log& journal, Options options)
    : state_(std::make_unique<State>(runtime, journal, std::move(options))) {
  state_->chain = state_->options.chain;
  state_->thread = runtime.spawn("checkpoint", [state = state_.get()] { state->run(); });
}

Checkpointer::~Checkpointer() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
    state_->changed->notify_all();
  }
  state_->thread->join();
}

bool Checkpointer::idle() {
  const std::lock_guard lock(state_->mutex);
  return state_->jobs.empty();
}

void Checkpointer::begin(Manifest manifest, std::uint64_t journal_end, bool whole) {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return;
  state_->jobs.emplace_back(State::Begin{std::move(manifest), journal_end, whole});
  state_->changed->notify_all();
}

void Checkpointer::add(std::uint32_t operator_index, std::vector<StateBlock> blocks) {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return;
  for (const StateBlock& block : blocks) state_->pending_bytes += block.bytes.size();
  state_->jobs.emplace_back(State::Add{operator_index, std::move(blocks)});
  state_->changed->notify_all();
}

void Checkpointer::add(std::function<StateSnapshot()> make) {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return;
  state_->jobs.emplace_back(State::AddSnapshot{std::move(make)});
  state_->changed->notify_all();
}

void Checkpointer::end() {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return;
  state_->jobs.emplace_back(State::End{});
  state_->changed->notify_all();
}

void Checkpointer::abandon() {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return;
  state_->jobs.emplace_back(State::Abandon{});
  state_->changed->notify_all();
}

void Checkpointer::wait_idle() {
  std::unique_lock lock(state_->mutex);
  while (!state_->jobs.empty() && !state_->ending) state_->changed->wait(lock);
  if (state_->error != nullptr) std::rethrow_exception(state_->error);
}

void Checkpointer::check() {
  const std::lock_guard lock(state_->mutex);
  if (state_->error != nullptr) std::rethrow_exception(state_->error);
}

std::optional<Time> Checkpointer::oldest_kept() {
  const std::lock_guard lock(state_->mutex);
  return state_->oldest_kept;
}

std::uint64_t Checkpointer::pending_bytes() {
  const std::lock_guard lock(state_->mutex);
  return state_->pending_bytes;
}

}  // namespace sluice::detail
