#include "sluice/core/stores.h"

#include <algorithm>
#include <cstring>

#include "sluice/runtime/checksum.h"

namespace sluice::detail {

// ---- ShuffleStore

void ShuffleStore::open(std::uint64_t shuffle, std::size_t map_partitions) {
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = shuffles_.try_emplace(shuffle);
  if (!is_new) return;
  Shuffle& made = place->second;
  made.missing = map_partitions;
  made.maps.resize(map_partitions);
  made.present.resize(map_partitions);
}

std::vector<bool> ShuffleStore::present(std::uint64_t shuffle) {
  const std::lock_guard lock(mutex_);
  return shuffles_.at(shuffle).present;
}

bool ShuffleStore::put(std::uint64_t shuffle, std::size_t map_partition, std::vector<BucketPtr> buckets) {
  const std::lock_guard lock(mutex_);
  Shuffle& into = shuffles_.at(shuffle);
  if (into.present.at(map_partition)) return false;
  into.present[map_partition] = true;
  into.maps[map_partition] = std::move(buckets);
  --into.missing;
  return true;
}

bool ShuffleStore::put_elsewhere(std::uint64_t shuffle, std::size_t map_partition) {
  const std::lock_guard lock(mutex_);
  Shuffle& into = shuffles_.at(shuffle);
  if (into.present.at(map_partition)) return false;
  into.present[map_partition] = true;
  --into.missing;
  into.ever_elsewhere.resize(into.maps.size());
  const bool is_first = !into.ever_elsewhere[map_partition];
  into.ever_elsewhere[map_partition] = true;
  return is_first;
}

void ShuffleStore::lose(std::uint64_t shuffle, std::size_t map_partition) {
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end() || !found->second.present.at(map_partition)) return;
  found->second.present[map_partition] = false;
  found->second.maps[map_partition].clear();
  ++found->second.missing;
}

std::vector<BucketPtr> ShuffleStore::get(std::uint64_t shuffle, std::size_t target) {
  const std::lock_guard lock(mutex_);
  const Shuffle& from = shuffles_.at(shuffle);
  SLUICE_ASSERT(from.missing == 0);
  std::vector<BucketPtr> buckets;
  buckets.reserve(from.maps.size());
  for (const auto& map : from.maps) buckets.push_back(map.at(target));
  return buckets;
}

std::optional<BucketPtr> ShuffleStore::find(std::uint64_t shuffle, std::size_t map_partition, std::size_t target) {
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end() || map_partition >= found->second.maps.size()) return std::nullopt;
  if (!found->second.present[map_partition]) return std::nullopt;
  return found->second.maps[map_partition].at(target);
}

bool ShuffleStore::complete(std::uint64_t shuffle) {
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  return found != shuffles_.end() && found->second.missing == 0;
}

void ShuffleStore::close(std::uint64_t shuffle) {
  std::vector<std::vector<BucketPtr>> freed;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end()) return;
  freed = std::move(found->second.maps);
  shuffles_.erase(found);
}

std::size_t ShuffleStore::size() {
  const std::lock_guard lock(mutex_);
  return shuffles_.size();
}

// ---- RestedRecords

namespace {
constexpr std::size_t segment_bytes_first = 4 << 10;
constexpr std::size_t segment_bytes_max = 256 << 10;
}  // namespace

RestedRecords::RestedRecords(const TypeOps& type) : type_(type) {}

RestedRecords::~RestedRecords() {
  if (type_.trivially_destructible) return;
  for (Segment& segment : segments_) type_.destroy(segment.memory.data(), segment.used);
}

void RestedRecords::append(const void* records, std::size_t count) {
  const char* from = static_cast<const char*>(records);
  while (count > 0) {
    if (segments_.empty() || segments_.back().used == segments_.back().memory.size() / type_.size) {
      std::size_t bytes = std::clamp(bytes_, segment_bytes_first, segment_bytes_max);
      if (bytes < type_.size) bytes = type_.size;
      segments_.push_back({PooledMemory(bytes), 0});
      bytes_ += segments_.back().memory.size();
    }
    Segment& segment = segments_.back();
    const std::size_t taken = std::min(count, segment.memory.size() / type_.size - segment.used);
    char* to = segment.memory.data() + segment.used * type_.size;
    type_.copy(from, to, taken);
    segment.used += taken;
    if (type_.has_views) type_.rest(to, taken, arena_);
    from += taken * type_.size;
    count -= taken;
    count_ += taken;
  }
}

void RestedRecords::push_all(Pipe& out) const {
  const std::size_t step = std::max<std::size_t>(1, chunk_bytes / type_.size);
  for (const Segment& segment : segments_) {
    for (std::size_t at = 0; at < segment.used && !out.full(); at += step) {
      out.push(segment.memory.data() + at * type_.size, std::min(step, segment.used - at));
    }
  }
}

void RestedRecords::encode_to(Encoder& out) const {
  out.u64(count_);
  for (const Segment& segment : segments_) type_.encode(segment.memory.data(), segment.used, out);
}

RestedPtr RestedRecords::decode_from(Decoder& in, const TypeOps& type) {
  auto records = std::make_shared<RestedRecords>(type);
  decode_into(in, *records);
  return records;
}

void RestedRecords::decode_into(Decoder& in, RestedRecords& records) {
  const TypeOps& type = records.type_;
  std::uint64_t left = in.u64();
  const std::size_t step = std::max<std::size_t>(1, segment_bytes_max / type.size);
  PooledMemory memory(std::min<std::uint64_t>(step, std::max<std::uint64_t>(left, 1)) * type.size);
  while (left > 0) {
    const std::size_t count = std::min<std::uint64_t>(step, left);
    type.decode(in, memory.data(), count);
    records.append(memory.data(), count);
    if (!type.trivially_destructible) type.destroy(memory.data(), count);
    left -= count;
  }
}

// ---- BlockStore

namespace {

// Spilled block: magic, CRC32C of the rest, then the records' codec bytes. Lives no longer than the process, so it
// has no version beyond the magic.
constexpr std::uint32_t spill_magic = 0x534c5531;  // "SLU1"
constexpr std::size_t spill_header_bytes = 8;

}  // namespace

// A directory of its own: other processes may have been given the same one, and all of it is removed at the end.
BlockStore::BlockStore(Runtime& runtime, Options options) : runtime_(runtime), options_(std::move(options)) {
  if (options_.spill_directory.empty()) return;
  options_.spill_directory += "/sluice-spill-" + std::to_string(runtime.random_seed());
}

BlockStore::~BlockStore() {
  if (!directory_made_) return;
  try {
    runtime_.files().remove_all(options_.spill_directory);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: spilled blocks could not be removed: %s\n", error.what());
  }
}

std::string BlockStore::path_of(const BlockId& id) const {
  return options_.spill_directory + "/block-" + std::to_string(id.owner) + "-" + std::to_string(id.index);
}

bool BlockStore::put(const BlockId& id, const RestedPtr& records, Keep level) {
  const std::size_t bytes = records->bytes();
  const bool at_once = has_disk(level) && (level == Keep::disk || bytes > options_.memory_bytes);
  if (has(id)) return false;
  if (!at_once) make_room(bytes);
  {
    const std::lock_guard lock(mutex_);
    const auto [at, made] = blocks_.try_emplace(id);
    if (!made) return false;
    Block& block = at->second;
    block.type = &records->type();
    block.records = records;
    block.level = level;
    block.bytes = bytes;
    block.used = least_recent_.end();
    if (!at_once) {
      block.used = least_recent_.insert(least_recent_.end(), id);
      memory_bytes_ += bytes;
    }
  }
  if (at_once) spill(id, *records);
  return true;
}

bool BlockStore::put_elsewhere(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  const auto [at, made] = blocks_.try_emplace(id);
  if (made) at->second.used = least_recent_.end();
  return made;
}

void BlockStore::lose(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return;
  SLUICE_ASSERT(found->second.type == nullptr);  // it lay elsewhere
  blocks_.erase(found);
}

// The lock is not held while the disk works: victims are marked first and dropped from memory when their bytes are
// written. A victim that is read meanwhile is still in memory.
void BlockStore::make_room(std::size_t bytes) {
  for (;;) {
    BlockId id;
    RestedPtr victim;
    {
      const std::lock_guard lock(mutex_);
      if (memory_bytes_ + bytes <= options_.memory_bytes || least_recent_.empty()) return;
      id = least_recent_.front();
      Block& block = blocks_.at(id);
      least_recent_.pop_front();
      block.used = least_recent_.end();
      memory_bytes_ -= block.bytes;
      victim = block.records;  // also destroyed outside the lock
      if (!has_disk(block.level)) {
        ++counters_.evicted;
        blocks_.erase(id);
        continue;
      }
    }
    if (!spill(id, *victim)) return;
  }
}

// False when it could not be written; then it is in memory again.
bool BlockStore::spill(const BlockId& id, const RestedRecords& records) {
  bool written = true;
  try {
    write(id, records);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: a block could not be written to disk and stays in memory: %s\n", error.what());
    written = false;
  }
  bool wanted = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(id);
    wanted = found != blocks_.end();
    ++(written ? counters_.spilled : counters_.spill_failures);
    if (wanted && written) {
      ++counters_.evicted;
      found->second.on_disk = true;
      found->second.records = nullptr;
    } else if (wanted) {
      found->second.used = least_recent_.insert(least_recent_.end(), id);
      memory_bytes_ += found->second.bytes;
    }
  }
  if (wanted && written) return true;
  // Removed meanwhile, or a part of it was written.
  try {
    runtime_.files().remove(path_of(id));
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: a spilled block could not be removed: %s\n", error.what());
  }
  return written;
}

void BlockStore::write(const BlockId& id, const RestedRecords& records) {
  Encoder body;
  records.encode_to(body);
  const std::string_view view = body.view();
  Encoder header;
  header.u32(spill_magic);
  header.u32(crc32c(view));
  const std::string_view head = header.view();
  {
    const std::lock_guard lock(mutex_);
    directory_made_ = true;
  }
  runtime_.files().make_directories(options_.spill_directory);
  const auto file = runtime_.files().create(path_of(id));
  file->append(head);
  file->append(view);
}

RestedPtr BlockStore::get(const BlockId& id) {
  const TypeOps* type = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(id);
    if (found == blocks_.end()) return nullptr;
    Block& block = found->second;
    if (block.records != nullptr) {
      if (block.used != least_recent_.end()) least_recent_.splice(least_recent_.end(), least_recent_, block.used);
      return block.records;
    }
    type = block.type;
  }
  return read_back(id, *type);
}

RestedPtr BlockStore::read_back(const BlockId& id, const TypeOps& type) {
  try {
    const std::string bytes = read_file(runtime_.files(), path_of(id), ~std::uint64_t{0});
    Decoder header(bytes);
    const bool right_magic = header.u32() == spill_magic;
    const std::uint32_t sum = header.u32();
    const std::string_view body(bytes.data() + spill_header_bytes, bytes.size() - spill_header_bytes);
    if (!right_magic || crc32c(body) != sum) throw Error(Code::corrupt_data, {.why = path_of(id)});
    Decoder in(body);
    RestedPtr records = RestedRecords::decode_from(in, type);
    in.expect_end();
    return records;
  } catch (const Error& error) {
    // The block counts as lost: a cached partition is computed again from its lineage.
    std::fprintf(stderr, "sluice: a spilled block cannot be used: %s\n", error.what());
    const std::lock_guard lock(mutex_);
    ++counters_.damaged;
    // Another reader may have found the same, and the block been made again since.
    const auto found = blocks_.find(id);
    if (found != blocks_.end() && found->second.records == nullptr) blocks_.erase(found);
    return nullptr;
  }
}

bool BlockStore::has(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  return blocks_.contains(id);
}

void BlockStore::remove_owners(std::uint64_t first, std::uint64_t last) {
  std::vector<RestedPtr> freed;
  std::vector<BlockId> on_disk;
  {
    const std::lock_guard lock(mutex_);
    auto it = blocks_.lower_bound({first, 0});
    while (it != blocks_.end() && it->first.owner <= last) {
      Block& block = it->second;
      if (block.used != least_recent_.end()) {
        least_recent_.erase(block.used);
        memory_bytes_ -= block.bytes;
      }
      if (block.on_disk) on_disk.push_back(it->first);
      freed.push_back(std::move(block.records));
      it = blocks_.erase(it);
    }
  }
  for (const BlockId& id : on_disk) runtime_.files().remove(path_of(id));
}

std::size_t BlockStore::memory_bytes() {
  const std::lock_guard lock(mutex_);
  return memory_bytes_;
}

BlockStore::Counters BlockStore::counters() {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// ---- StateStore

std::shared_ptr<StatePartition> StateStore::get(std::uint64_t operation, std::size_t partition,
                                                const std::function<std::shared_ptr<StatePartition>()>& make) {
  const std::lock_guard lock(mutex_);
  auto& state = states_[{operation, partition}];
  if (state == nullptr) {
    state = make();
    if (tracks_) state->track();
  }
  return state;
}

std::shared_ptr<StatePartition> StateStore::find(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  const auto found = states_.find({operation, partition});
  return found == states_.end() ? nullptr : found->second;
}

void StateStore::put(std::uint64_t operation, std::size_t partition, std::shared_ptr<StatePartition> state) {
  if (tracks_) state->track();
  const std::lock_guard lock(mutex_);
  states_[{operation, partition}] = std::move(state);
}

void StateStore::remove(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  states_.erase({operation, partition});
}

void StateStore::clear() {
  const std::lock_guard lock(mutex_);
  states_.clear();
}

void StateStore::remove(std::uint64_t operation) {
  const std::lock_guard lock(mutex_);
  states_.erase(states_.lower_bound({operation, 0}), states_.lower_bound({operation + 1, 0}));
}

}  // namespace sluice::detail
