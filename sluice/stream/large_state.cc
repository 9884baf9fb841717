#include "sluice/stream/large_state.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>

#include "sluice/core/hash.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/large_window.h"

namespace sluice::detail {
namespace {

// Behind the last key group.
constexpr std::string_view schemas_key = "\xff\xffschemas";
static_assert(key_groups < 0xff00);

std::vector<std::string> read_schemas(StateDatabase& database) {
  std::vector<std::string> schemas;
  database.get({&schemas_key, 1}, [&](std::size_t, std::optional<std::string_view> value) {
    if (!value.has_value()) return;
    Decoder in({value->data(), value->size()});
    schemas = decode<std::vector<std::string>>(in);
    in.expect_end();
  });
  return schemas;
}

}  // namespace

std::string group_prefix(std::uint32_t group) {
  return {static_cast<char>(group >> 8), static_cast<char>(group & 0xff)};
}

std::uint32_t group_of_key(std::string_view key) {
  if (key.size() < 2) throw Error(Code::corrupt_data, {.why = "a key of a state's database has no key group"});
  return static_cast<std::uint32_t>(static_cast<unsigned char>(key[0])) << 8 | static_cast<unsigned char>(key[1]);
}

// ---- LargeState

LargeState::~LargeState() {
  try {
    close();
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: a working directory stays behind: %s\n", error.what());
  }
}

// One a run, so that a run that has been fenced and does not know it yet works on in its own: ROOT/EPOCH/NUMBER.
void LargeState::make_working(const Start& start) {
  FileSystem& files = start.runtime.files();
  std::string root = start.checkpoint + "/work";
  if (!options_.directory.empty()) {
    // The directory may be that of several programs.
    char name[32];
    std::snprintf(name, sizeof name, "/sluice-%016llx",
                  static_cast<unsigned long long>(hash_long(0, start.checkpoint.data(), start.checkpoint.size())));
    root = options_.directory + name;
  }
  const auto listed = files.list(root);
  for (const FileInfo& each : listed.value_or(std::vector<FileInfo>{})) {
    const std::string_view name = base_name(each.path);
    std::uint64_t epoch = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), epoch);
    const bool is_older = error == std::errc() && end == name.data() + name.size() && epoch < start.epoch;
    if (is_older) files.remove_all(each.path);
  }
  const std::string parent = root + "/" + std::to_string(start.epoch);
  files.make_directories(parent);
  working_ = parent + "/" + std::to_string(start.number);
  files.remove_all(working_);  // of a checkpoint that turned out to be damaged
}

void LargeState::open(const Start& start, const StateSnapshot* from, const StateSchema& schema) {
  close();
  FileSystem& files = start.runtime.files();
  runtime_ = &start.runtime;
  checkpoint_ = start.checkpoint;
  read_only_ = start.read_only;
  changed_ = start.runtime.condition();
  DatabasePlace place{files, {}, {}, {}, options_.memory_bytes};
  if (from != nullptr) {
    check_snapshot(files, checkpoint_, *from, options_.verify);
    place.snapshot = checkpoint_ + "/" + from->directory;
    place.snapshot_files = from->files;
  }
  if (!read_only_) {
    make_working(start);
    place.directory = working_;
  }
  if (!place.directory.empty() || !place.snapshot.empty()) {
    database_ = open_(place);
    schemas_ = read_schemas(*database_);
  }
  schema_now_ = schema_number(schema);
}

void LargeState::close() {
  database_ = nullptr;
  sealed_.clear();
  sealed_bytes_ = 0;
  frozen_ = applying_ = false;
  broken_ = nullptr;
  schemas_.clear();
  if (working_.empty()) return;
  FileSystem& files = runtime_->files();
  files.remove_all(std::exchange(working_, {}));
}

std::uint64_t LargeState::schema_number(const StateSchema& schema) {
  const auto known = std::find(schemas_.begin(), schemas_.end(), schema.value);
  if (known != schemas_.end()) return static_cast<std::uint64_t>(known - schemas_.begin());
  schemas_.push_back(schema.value);
  Encoder all;
  encode(schemas_, all);
  auto changes = std::make_shared<ChangeSet>(~std::size_t{0});
  changes->put(schemas_key, all.view());
  commit(std::move(changes));
  return schemas_.size() - 1;
}

void LargeState::check() {
  const std::lock_guard lock(mutex_);
  if (broken_ != nullptr) std::rethrow_exception(broken_);
}

std::vector<std::shared_ptr<const ChangeSet>> LargeState::sealed(std::size_t partition) {
  std::vector<std::shared_ptr<const ChangeSet>> sets;
  const std::lock_guard lock(mutex_);
  for (const auto& changes : sealed_) {
    if (changes->partition() == partition) sets.push_back(changes);
  }
  return sets;
}

void LargeState::write(const ChangeSet& changes) {
  try {
    database_->write(changes);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (broken_ == nullptr) broken_ = std::current_exception();
    changed_->notify_all();
    throw;
  }
}

void LargeState::commit(std::shared_ptr<const ChangeSet> changes) {
  if (changes->empty()) return;
  std::unique_lock lock(mutex_);
  // What waits takes memory beside that of the database.
  while ((frozen_ || applying_) && sealed_bytes_ > options_.memory_bytes / 4 && broken_ == nullptr) {
    changed_->wait(lock);
  }
  if (broken_ != nullptr) std::rethrow_exception(broken_);
  if (!frozen_ && !applying_ && sealed_.empty() && !read_only_) {
    // Several partitions at once: a snapshot does not begin before all tasks have ended.
    lock.unlock();
    write(*changes);
    return;
  }
  sealed_bytes_ += changes->bytes();
  sealed_.push_back(std::move(changes));
  if (!frozen_ && !applying_ && !read_only_) apply_sealed(lock);
}

// A set stays among those that are looked up first until all of it is in the database.
void LargeState::apply_sealed(std::unique_lock<std::mutex>& lock) {
  applying_ = true;
  while (!sealed_.empty() && broken_ == nullptr) {
    const std::shared_ptr<const ChangeSet> front = sealed_.front();
    lock.unlock();
    try {
      write(*front);
    } catch (...) {
      lock.lock();
      applying_ = false;
      throw;
    }
    lock.lock();
    sealed_.pop_front();
    sealed_bytes_ -= front->bytes();
    changed_->notify_all();
  }
  applying_ = false;
  changed_->notify_all();
}

/// Thaws the state when nobody is going to make the snapshot any more.
struct LargeState::Frozen {
  const std::shared_ptr<LargeState> state;
  bool pending = true;
  ~Frozen() {
    if (!pending) return;
    const std::lock_guard lock(state->mutex_);
    state->frozen_ = false;
    state->changed_->notify_all();
  }
};

std::function<StateSnapshot()> LargeState::freeze(std::uint32_t operator_index, std::string directory) {
  {
    std::unique_lock lock(mutex_);
    SLUICE_ASSERT(!frozen_ && !applying_);
    if (broken_ != nullptr) std::rethrow_exception(broken_);
    apply_sealed(lock);  // of a snapshot that nobody made
    frozen_ = true;
  }
  return [frozen = std::make_shared<Frozen>(shared_from_this()), operator_index, directory = std::move(directory)] {
    StateSnapshot snapshot = frozen->state->make_snapshot(operator_index, directory);
    frozen->pending = false;
    return snapshot;
  };
}

StateSnapshot LargeState::make_snapshot(std::uint32_t operator_index, const std::string& name) {
  FileSystem& files = runtime_->files();
  const std::string path = checkpoint_ + "/" + name;
  kill_point("checkpoint.before_snapshot");
  StateSnapshot snapshot{operator_index, name, database_->about_keys(), database_->snapshot(path)};
  {
    std::unique_lock lock(mutex_);
    frozen_ = false;
    apply_sealed(lock);
  }
  kill_point("checkpoint.mid_snapshot");
  files.sync_directory(checkpoint_);
  kill_point("checkpoint.after_snapshot");
  return snapshot;
}

void read_snapshot(OpenDatabase open, FileSystem& files, const std::string& checkpoint, const StateSnapshot& snapshot,
                   const StateSchema& written, const std::function<void(const StateBlock&, const StateSchema&)>& f) {
  check_snapshot(files, checkpoint, snapshot, false);
  const auto database = open({files, {}, checkpoint + "/" + snapshot.directory, snapshot.files, 64 << 20});
  const std::vector<std::string> schemas = read_schemas(*database);
  struct Puts {
    Encoder bytes;
    std::uint64_t count = 0;
  };
  std::vector<Puts> puts(schemas.size());
  std::uint32_t group = 0;
  const auto hand_over = [&] {
    for (std::size_t schema = 0; schema < schemas.size(); ++schema) {
      if (puts[schema].count == 0) continue;
      Encoder all;
      all.varint(0);
      all.varint(puts[schema].count);
      all.bytes(puts[schema].bytes.view());
      StateSchema as = written;
      as.value = schemas[schema];
      as.value_bytes = 0;
      f({StateBlock::What::entries, group, 0, all.take()}, as);
      puts[schema] = {};
    }
  };
  const std::string begin = group_prefix(0);
  const std::string end = group_prefix(key_groups);
  for (const auto scan = database->scan(begin, end); scan->valid(); scan->next()) {
    const std::string_view key = scan->key();
    const std::string_view value = scan->value();
    if (const std::uint32_t own = group_of_key(key); own != group) {
      hand_over();
      group = own;
    }
    Decoder in({value.data(), value.size()});
    const std::uint64_t schema = in.varint();
    if (schema >= schemas.size()) in.fail_corrupt("a state was written with a schema that is not known");
    const std::string_view text = key.substr(2);
    written.key_bytes > 0 ? puts[schema].bytes.bytes(text) : puts[schema].bytes.text(text);
    puts[schema].bytes.text(in.bytes(in.remaining()));
    ++puts[schema].count;
  }
  hand_over();
  read_window_logs(*database, written, f);
}

// ---- LargeScan

LargeScan::LargeScan(std::vector<std::shared_ptr<const ChangeSet>> sealed, const ChangeSet* running,
                     std::unique_ptr<StateDatabase::Scan> stored, std::string_view from, std::string_view before)
    : sealed_(std::move(sealed)), stored_(std::move(stored)) {
  const auto add = [&](const ChangeSet& changes) {
    changes_.push_back({&changes, changes.lower_bound(from), changes.lower_bound(before)});
  };
  if (running != nullptr) add(*running);
  for (auto it = sealed_.rbegin(); it != sealed_.rend(); ++it) add(**it);
}

bool LargeScan::next() {
  for (;;) {
    // Whoever gave the last key, or had an older value of it, goes on.
    for (Changes& each : changes_) {
      if (each.taken) ++each.at;
      each.taken = false;
    }
    if (std::exchange(stored_taken_, false)) stored_->next();
    std::optional<ChangeSet::Change> first;
    for (const Changes& each : changes_) {
      if (each.at == each.end) continue;
      const ChangeSet::Change change = (*each.changes)[each.at];
      if (!first.has_value() || change.key < first->key) first = change;
    }
    const bool has_stored = stored_ != nullptr && stored_->valid();
    if (has_stored && (!first.has_value() || stored_->key() < first->key)) {
      stored_taken_ = true;
      key_ = stored_->key();
      value_ = stored_->value();
      return true;
    }
    if (!first.has_value()) return false;
    for (Changes& each : changes_) each.taken = each.at != each.end && (*each.changes)[each.at].key == first->key;
    stored_taken_ = has_stored && stored_->key() == first->key;
    if (!first->value.has_value()) continue;
    key_ = first->key;
    value_ = *first->value;
    return true;
  }
}

// ---- LargePartition

void LargePartition::get(const std::vector<std::shared_ptr<const ChangeSet>>& sealed,
                         std::span<const std::string_view> keys, const StateDatabase::Found& found) {
  constexpr std::size_t get_max = StateDatabase::get_max;
  // The database is asked for what no change set has; `found` hears of all keys in their order.
  std::array<std::optional<ChangeSet::Change>, get_max> changed;
  std::array<std::string_view, get_max> unchanged;
  std::array<std::size_t, get_max> place;
  for (std::size_t begin = 0; begin < keys.size(); begin += get_max) {
    const std::size_t count = std::min(get_max, keys.size() - begin);
    std::size_t asked = 0;
    for (std::size_t i = 0; i < count; ++i) {
      changed[i].reset();
      for (auto it = sealed.rbegin(); it != sealed.rend() && !changed[i].has_value(); ++it) {
        changed[i] = (*it)->find(keys[begin + i]);
      }
      if (changed[i].has_value()) continue;
      unchanged[asked] = keys[begin + i];
      place[asked++] = i;
    }
    std::size_t next = 0;
    const auto tell_changed = [&](std::size_t until) {
      for (; next < until; ++next) found(begin + next, changed[next]->value);
    };
    const auto tell = [&](std::size_t i, std::optional<std::string_view> value) {
      tell_changed(place[i]);
      found(begin + place[i], value);
      ++next;
    };
    if (StateDatabase* const database = whole->database(); database != nullptr) {
      database->get({unchanged.data(), asked}, tell);
    } else {
      for (std::size_t i = 0; i < asked; ++i) tell(i, std::nullopt);
    }
    tell_changed(count);
  }
}

LargeScan LargePartition::scan(std::uint32_t begin, std::uint32_t end, const ChangeSet* with) {
  return scan_keys(group_prefix(begin), group_prefix(end), with);
}

LargeScan LargePartition::scan_keys(std::string_view from, std::string_view before, const ChangeSet* with) {
  // The change sets first: what has left them is in the database then.
  auto sealed = whole->sealed(number);
  StateDatabase* const database = whole->database();
  return {std::move(sealed), with, database == nullptr ? nullptr : database->scan(from, before), from, before};
}

void LargePartition::load(const StateBlock& block, const StateSchema& written) {
  SLUICE_ASSERT(block.what == StateBlock::What::entries);
  if (block.group < first_group || block.group >= end_group) return;
  const std::uint64_t schema = whole->schema_number(written);
  std::map<std::string, std::optional<std::string>> changes;
  Decoder in(block.bytes);
  const auto key = [&] {
    return group_prefix(block.group).append(written.key_bytes > 0 ? in.bytes(written.key_bytes) : in.text());
  };
  for (std::uint64_t left = in.varint(); left > 0; --left) changes[key()] = std::nullopt;
  for (std::uint64_t left = in.varint(); left > 0; --left) {
    std::string text = key();
    Encoder value;
    value.varint(schema);
    value.bytes(written.value_bytes > 0 ? in.bytes(written.value_bytes) : in.text());
    changes[std::move(text)] = value.take();
  }
  in.expect_end();
  auto set = std::make_shared<ChangeSet>(number);
  for (const auto& [text, value] : changes) {
    value.has_value() ? set->put(text, *value) : set->remove(text);
  }
  whole->commit(std::move(set));
}

// ---- LargeUpdate

namespace {
// Key groups that are worked on together: as many as KeyedShuffle gives at a time.
constexpr std::uint32_t bucket_groups = key_groups >> hash_range_bits;
}  // namespace

LargeUpdate::LargeUpdate(const OpenAt& at, std::shared_ptr<LargePartition> state, bool idle_keeps_state, bool in_order)
    : at_(at),
      state_(std::move(state)),
      idle_keeps_state_(idle_keeps_state),
      again_(state_has_batch(at, state_->version)),
      sealed_(state_->whole->sealed(state_->number)),
      bucket_begin_(state_->first_group),
      bucket_end_(in_order ? 0 : state_->end_group),
      changes_(std::make_shared<ChangeSet>(state_->number)) {
  try {
    state_->whole->check();
  } catch (...) {
    rethrow_at(at_.info);
  }
  if (!again_) state_->running = changes_.get();
}

LargeUpdate::~LargeUpdate() {
  if (!again_) state_->running = nullptr;
}

void LargeUpdate::commit() {
  if (again_) return;
  try {
    state_->whole->commit(changes_);
  } catch (...) {
    rethrow_at(at_.info);
  }
  state_->called = std::move(called_);
  state_->called_all = !idle_keeps_state_;
  state_->version = at_.batch;
}

void LargeUpdate::begin_chunk(std::uint32_t group) {
  if (group < bucket_end_) return;
  const std::uint32_t bucket = group / bucket_groups * bucket_groups;
  const std::uint32_t begin = std::max(bucket, state_->first_group);
  call_all(bucket_begin_, begin);
  bucket_begin_ = begin;
  bucket_end_ = std::min(bucket + bucket_groups, state_->end_group);
}

void LargeUpdate::add(std::uint32_t group, std::string_view key) {
  std::uint64_t head = 0;
  std::memcpy(&head, key.data(), std::min<std::size_t>(key.size(), 6));
  entries_.push_back({std::uint64_t{group} << 48 | __builtin_bswap64(head) >> 16, keys_.size(),
                      static_cast<std::uint32_t>(key.size() + 2), static_cast<std::uint32_t>(entries_.size())});
  keys_.push_back(static_cast<char>(group >> 8));
  keys_.push_back(static_cast<char>(group & 0xff));
  keys_.append(key);
}

// By key, values of a key in the order in which they came.
void LargeUpdate::sort_entries() {
  std::sort(entries_.begin(), entries_.end(), [this](const Entry& a, const Entry& b) {
    if (a.head != b.head) return a.head < b.head;
    const int order = key_of(a).compare(key_of(b));
    return order != 0 ? order < 0 : a.value < b.value;
  });
  distinct_.clear();
  first_value_.clear();
  values_.clear();
  for (const Entry& entry : entries_) {
    const std::string_view key = key_of(entry);
    if (distinct_.empty() || distinct_.back() != key) {
      distinct_.push_back(key);
      first_value_.push_back(static_cast<std::uint32_t>(values_.size()));
    }
    values_.push_back(entry.value);
  }
  first_value_.push_back(static_cast<std::uint32_t>(values_.size()));
}

void LargeUpdate::call_all(std::uint32_t begin, std::uint32_t end) {
  sort_entries();
  const auto values_of = [this](std::size_t i) {
    return std::span(values_).subspan(first_value_[i], first_value_[i + 1] - first_value_[i]);
  };
  try {
    if (idle_keeps_state_) {
      if (!distinct_.empty()) {
        state_->get(sealed_, distinct_, [&](std::size_t i, std::optional<std::string_view> before) {
          call(distinct_[i], values_of(i), before);
        });
      }
    } else if (begin < end) {
      LargeScan scan = state_->scan(begin, end, nullptr);
      bool more = scan.next();
      for (std::size_t i = 0; more || i < distinct_.size();) {
        const int order = !more ? 1 : i == distinct_.size() ? -1 : scan.key().compare(distinct_[i]);
        if (order > 0) {
          call(distinct_[i], values_of(i), std::nullopt);
        } else {
          call(scan.key(), order == 0 ? values_of(i) : std::span<const std::uint32_t>(), scan.value());
          more = scan.next();
        }
        if (order >= 0) ++i;
      }
    }
  } catch (...) {
    rethrow_at(at_.info);
  }
  at_.task.check_cancelled();
  keys_.clear();
  entries_.clear();
  forget_values();
}

void LargeUpdate::call(std::string_view key, std::span<const std::uint32_t> values,
                       std::optional<std::string_view> before) {
  after_.clear();
  if (update(key, values, before, after_)) {
    if (!before.has_value() || *before != after_.view()) changes_->put(key, after_.view());
    if (idle_keeps_state_) called_.add(key);
  } else if (before.has_value()) {
    changes_->remove(key);
  }
}

void LargeUpdate::finish_all() {
  if (again_) return emit_again();
  call_all(bucket_begin_, state_->end_group);
}

void LargeUpdate::emit_again() {
  try {
    if (state_->called_all) {
      LargeScan scan = state_->scan(state_->first_group, state_->end_group, nullptr);
      while (scan.next()) emit(scan.key(), scan.value());
      return;
    }
    std::vector<std::string_view> keys;
    for (std::size_t i = 0; i < state_->called.size(); ++i) keys.push_back(state_->called[i]);
    state_->get(sealed_, keys, [&](std::size_t i, std::optional<std::string_view> value) {
      if (value.has_value()) emit(keys[i], *value);
    });
  } catch (...) {
    rethrow_at(at_.info);
  }
}

}  // namespace sluice::detail
