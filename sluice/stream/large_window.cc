#include "sluice/stream/large_window.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

namespace sluice::detail {
namespace {

constexpr std::string_view log_prefix = "\xff\xfe";
constexpr std::size_t log_head_bytes = log_prefix.size() + sizeof(std::int64_t);
constexpr std::size_t group_bytes = 2;
// Of what is handed over at a time.
constexpr std::size_t block_bytes_max = 4 << 20;

// Batch times are not negative.
std::string log_key(std::int64_t time) {
  std::string key(log_prefix);
  for (int shift = 56; shift >= 0; shift -= 8) key.push_back(static_cast<char>(time >> shift & 0xff));
  return key;
}

std::int64_t time_of_log(std::string_view key) {
  if (key.size() < log_head_bytes + group_bytes) {
    throw Error(Code::corrupt_data, {.why = "a key of a window's batch is too short"});
  }
  std::uint64_t time = 0;
  for (const char c : key.substr(log_prefix.size(), sizeof time)) time = time << 8 | static_cast<unsigned char>(c);
  return static_cast<std::int64_t>(time);
}

const std::string& logs_end() {
  static const std::string end = "\xff\xff";
  return end;
}

void save_key(std::string_view key, const StateSchema& written, Encoder& out) {
  written.key_bytes > 0 ? out.bytes(key) : out.text(key);
}

}  // namespace

void read_window_logs(StateDatabase& database, const StateSchema& written,
                      const std::function<void(const StateBlock&, const StateSchema&)>& f) {
  Encoder entries;
  std::uint64_t count = 0;
  std::int64_t time = 0;
  const auto hand_over = [&] {
    if (count == 0) return;
    Encoder all;
    all.varint(count);
    all.bytes(entries.view());
    f({StateBlock::What::log, 0, time, all.take()}, written);
    entries.clear();
    count = 0;
  };
  for (const auto scan = database.scan(log_key(0), logs_end()); scan->valid(); scan->next()) {
    const std::string_view key = scan->key();
    if (const std::int64_t own = time_of_log(key); own != time || entries.size() >= block_bytes_max) {
      hand_over();
      time = own;
    }
    save_key(key.substr(log_head_bytes + group_bytes), written, entries);
    entries.bytes(scan->value());
    ++count;
  }
  hand_over();
}

// ---- LargeWindowPartition

LargeScan LargeWindowPartition::scan_batch(std::int64_t time) {
  const std::string head = log_key(time);
  return scan_keys(head + group_prefix(first_group), head + group_prefix(end_group), nullptr);
}

void LargeWindowPartition::load(const StateBlock& block, const StateSchema& written) {
  if (block.what == StateBlock::What::entries) return LargePartition::load(block, written);
  loaded_logs_.push_back(block);
  loaded_key_bytes_ = written.key_bytes;
  loaded_length_ = written.log_length;
}

// The same batch comes once for each partition that wrote it.
void LargeWindowPartition::loaded(std::int64_t batch) {
  std::map<std::string, std::string> puts;
  for (const StateBlock& log : loaded_logs_) {
    if (log.batch <= batch - loaded_length_) continue;
    const std::string head = log_key(log.batch);
    Decoder in(log.bytes);
    for (std::uint64_t left = in.varint(); left > 0; --left) {
      const std::string_view key = loaded_key_bytes_ > 0 ? in.bytes(loaded_key_bytes_) : in.text();
      const std::size_t begin = in.position();
      skip_value_(in);
      const std::string_view value = std::string_view(log.bytes).substr(begin, in.position() - begin);
      const std::uint32_t group = group_of_(key, seed_);
      if (group < first_group || group >= end_group) continue;
      puts[std::string(head).append(group_prefix(group)).append(key)] = value;
    }
    in.expect_end();
  }
  loaded_logs_.clear();
  auto set = std::make_shared<ChangeSet>(number);
  for (const auto& [key, value] : puts) set->put(key, value);
  whole->commit(std::move(set));
  find_times();
  LargePartition::loaded(batch);
}

void LargeWindowPartition::find_times() {
  times.clear();
  for (std::string from = log_key(0);;) {
    LargeScan any = scan_keys(from, logs_end(), nullptr);
    if (!any.next()) return;
    const std::int64_t time = time_of_log(any.key());
    if (scan_batch(time).next()) times.push_back(time);
    from = log_key(time + 1);
  }
}

// ---- LargeSlide

LargeSlide::LargeSlide(const OpenAt& at, std::shared_ptr<LargeWindowPartition> state, std::int64_t length,
                       std::int64_t step, std::size_t inputs, Pipe& next)
    : at_(at),
      state_(std::move(state)),
      again_(state_has_batch(at, state_->version)),
      oldest_(at.batch - length),
      next_(next),
      open_inputs_(inputs),
      changes_(std::make_shared<ChangeSet>(state_->number)) {
  try {
    state_->whole->check();
  } catch (...) {
    rethrow_at(at_.info);
  }
  for (const std::int64_t time : state_->times) {
    if (time <= oldest_) batches_.push_back({time, true});
  }
  first_entering_ = batches_.size();
  for (std::size_t i = 0; i < inputs; ++i) {
    batches_.push_back({at.batch - static_cast<std::int64_t>(inputs - 1 - i) * step, false});
  }
  if (!again_) state_->running = changes_.get();
}

LargeSlide::~LargeSlide() {
  if (!again_) state_->running = nullptr;
}

void LargeSlide::commit() {
  if (again_) return;
  try {
    state_->whole->commit(changes_);
  } catch (...) {
    rethrow_at(at_.info);
  }
  for (const Batch& batch : batches_) {
    if (batch.leaves) {
      state_->times.pop_front();
    } else if (batch.has_keys) {
      state_->times.push_back(batch.time);
    }
  }
  state_->version = at_.batch;
}

// Slide > length: some batches are never in the window.
bool LargeSlide::skips(std::size_t input) const { return again_ || batches_[first_entering_ + input].time <= oldest_; }

void LargeSlide::add(std::size_t input, std::uint32_t group, std::string_view key, std::string_view value) {
  touch(first_entering_ + input, group_prefix(group), key, value);
}

void LargeSlide::touch(std::size_t batch, std::string_view prefix, std::string_view key, std::string_view value) {
  if (prefix.size() + key.size() >= std::numeric_limits<std::uint32_t>::max() ||
      value.size() >= std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Code::over_limit, {.why = "a key or its value has 4 GiB or more"});
  }
  touches_.push_back({bytes_.size(), static_cast<std::uint32_t>(prefix.size() + key.size()),
                      static_cast<std::uint32_t>(value.size()), static_cast<std::uint32_t>(batch)});
  bytes_.append(prefix).append(key).append(value);
  batches_[batch].has_keys = true;
}

void LargeSlide::input_finished() {
  if (--open_inputs_ > 0) return;
  if (!again_) {
    try {
      slide();
    } catch (...) {
      rethrow_at(at_.info);
    }
  }
  next_.finish();
}

void LargeSlide::slide() {
  take_what_leaves();
  at_.task.check_cancelled();
  std::sort(touches_.begin(), touches_.end(), [this](const Touch& a, const Touch& b) {
    const int order = key_of(a).compare(key_of(b));
    return order != 0 ? order < 0 : a.batch < b.batch;
  });
  change_sums();
  change_batches();
  at_.task.check_cancelled();
}

void LargeSlide::take_what_leaves() {
  for (std::size_t batch = 0; batch < first_entering_; ++batch) {
    LargeScan scan = state_->scan_batch(batches_[batch].time);
    while (scan.next()) touch(batch, {}, scan.key().substr(log_head_bytes), scan.value());
  }
}

void LargeSlide::change_sums() {
  std::vector<std::string_view> keys;
  std::vector<std::size_t> first;
  for (std::size_t i = 0; i < touches_.size(); ++i) {
    const std::string_view key = key_of(touches_[i]);
    if (!keys.empty() && keys.back() == key) continue;
    keys.push_back(key);
    first.push_back(i);
  }
  first.push_back(touches_.size());
  Encoder after;
  const auto sealed = state_->whole->sealed(state_->number);
  state_->get(sealed, keys, [&](std::size_t i, std::optional<std::string_view> before) {
    after.clear();
    if (slide_key(before, std::span(touches_).subspan(first[i], first[i + 1] - first[i]), after)) {
      if (!before.has_value() || *before != after.view()) changes_->put(keys[i], after.view());
    } else if (before.has_value()) {
      changes_->remove(keys[i]);
    }
  });
}

void LargeSlide::change_batches() {
  std::vector<std::uint32_t> order(touches_.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [this](std::uint32_t a, std::uint32_t b) { return touches_[a].batch < touches_[b].batch; });
  for (const std::uint32_t i : order) {
    const Touch& touch = touches_[i];
    const std::string key = log_key(batches_[touch.batch].time).append(key_of(touch));
    leaves(touch) ? changes_->remove(key) : changes_->put(key, value_of(touch));
  }
}

}  // namespace sluice::detail
