// The files of this machine.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/filesystem.h"
#include "sluice/runtime/posix.h"

namespace sluice::detail {
namespace {

[[noreturn]] void throw_failed(std::string_view call, const std::string& path, int error) {
  throw Error(Code::io_failed, {.why = std::string(call) + " " + path + ": " + errno_text(error)});
}

bool is_missing(int error) { return error == ENOENT || error == ENOTDIR; }

// Repeats `call` while a signal interrupts it.
template <typename Call>
auto uninterrupted(Call call) {
  while (true) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

Time to_time(const struct statx_timestamp& stamp) {
  return Time(std::chrono::seconds(stamp.tv_sec) + std::chrono::nanoseconds(stamp.tv_nsec));
}

FileInfo to_info(const struct statx& data, std::string path) {
  FileInfo info;
  info.path = std::move(path);
  info.size_bytes = data.stx_size;
  info.device = (static_cast<std::uint64_t>(data.stx_dev_major) << 32) | data.stx_dev_minor;
  info.inode = data.stx_ino;
  if ((data.stx_mask & STATX_BTIME) != 0) info.birth = to_time(data.stx_btime);
  info.modified = to_time(data.stx_mtime);
  info.is_directory = S_ISDIR(data.stx_mode);
  info.mode = data.stx_mode & 07777U;
  return info;
}

constexpr unsigned statx_mask = STATX_BASIC_STATS | STATX_BTIME;

// `name` relative to the directory `at`; `path` is what the caller calls it.
std::optional<FileInfo> stat_at(int at, const char* name, const std::string& path) {
  struct statx data;
  if (uninterrupted([&] { return ::statx(at, name, AT_SYMLINK_NOFOLLOW, statx_mask, &data); }) < 0) {
    if (is_missing(errno)) return std::nullopt;
    throw_failed("stat", path, errno);
  }
  if (!S_ISLNK(data.stx_mode)) return to_info(data, path);

  struct statx target;
  const bool leads_somewhere = uninterrupted([&] { return ::statx(at, name, 0, statx_mask, &target); }) == 0;
  if (!leads_somewhere && !is_missing(errno) && errno != ELOOP) throw_failed("stat", path, errno);
  FileInfo info = to_info(leads_somewhere ? target : data, path);
  info.is_link = true;
  return info;
}

// After a failed sync the kernel may have dropped the dirty pages and marked them clean: nothing this process knows of
// the file is true any more, and the next sync would report success. Recovery reads what really is on the disk.
// Returns 0, or the error of what cannot be synced at all (a pipe, a device) and so has lost nothing.
int sync_or_die(int (*call)(int), int descriptor, const std::string& path) {
  if (uninterrupted([&] { return call(descriptor); }) == 0) return 0;
  const int error = errno;
  if (error == EINVAL || error == EROFS) return error;
  std::fprintf(stderr, "sluice: sync %s: %s; the process ends, since what was written may be lost\n", path.c_str(),
               errno_text(error).c_str());
  std::abort();
}

void sync_or_throw(int (*call)(int), int descriptor, const std::string& path) {
  if (const int error = sync_or_die(call, descriptor, path); error != 0) throw_failed("sync", path, error);
}

// How a file was opened. The descriptor of `append` has O_APPEND, that of `rewrite` has not.
enum class Access { read, append, rewrite };

class LocalFile final : public File {
 public:
  LocalFile(Descriptor descriptor, std::string path, Access access)
      : descriptor_(std::move(descriptor)), path_(std::move(path)), access_(access) {}

  std::size_t read_at(std::uint64_t offset, std::span<char> into) override {
    std::size_t done = 0;
    while (done < into.size()) {
      const ssize_t count = uninterrupted([&] {
        return ::pread(descriptor_.get(), into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
      });
      if (count < 0) throw_failed("read", path_, errno);
      if (count == 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

  void append(std::string_view bytes) override {
    // The position is where the last append ended, which a truncate or a write_at leaves behind. What has no positions,
    // a pipe for instance, has an end all the same. (0.1 us, beside a write of more than 1 us.)
    if (access_ == Access::rewrite && ::lseek(descriptor_.get(), 0, SEEK_END) < 0 && errno != ESPIPE) {
      throw_failed("write", path_, errno);
    }
    while (!bytes.empty()) {
      const ssize_t count = uninterrupted([&] { return ::write(descriptor_.get(), bytes.data(), bytes.size()); });
      if (count < 0) throw_failed("write", path_, errno);
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  void write_at(std::uint64_t offset, std::string_view bytes) override {
    if (access_ == Access::append) {
      throw Error(Code::io_failed, {.why = "write " + path_ + " at an offset: it is open for appending only"});
    }
    while (!bytes.empty()) {
      const ssize_t count = uninterrupted(
          [&] { return ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
      if (count < 0) throw_failed("write", path_, errno);
      bytes.remove_prefix(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
  }

  void sync() override { sync_or_throw(::fdatasync, descriptor_.get(), path_); }

  void truncate(std::uint64_t size_bytes) override {
    if (uninterrupted([&] { return ::ftruncate(descriptor_.get(), static_cast<off_t>(size_bytes)); }) < 0) {
      throw_failed("truncate", path_, errno);
    }
  }

  FileInfo info() override {
    struct statx data;
    if (uninterrupted([&] { return ::statx(descriptor_.get(), "", AT_EMPTY_PATH, statx_mask, &data); }) < 0) {
      throw_failed("stat", path_, errno);
    }
    return to_info(data, path_);
  }

 private:
  const Descriptor descriptor_;
  const std::string path_;
  const Access access_;
};

class LocalFiles final : public FileSystem {
 public:
  LocalFiles() : FileSystem(system_random_bits()) {}

  bool is_local() const override { return true; }

  std::unique_ptr<File> open(const std::string& path) override {
    Descriptor descriptor = open_descriptor(path, O_RDONLY);
    if (!descriptor.is_open()) {
      if (is_missing(errno)) return nullptr;
      throw_failed("open", path, errno);
    }
    return std::make_unique<LocalFile>(std::move(descriptor), path, Access::read);
  }

  std::unique_ptr<File> open_append(const std::string& path) override {
    return open_to_write(path, O_APPEND, Access::append);
  }

  std::unique_ptr<File> create(const std::string& path) override {
    return open_to_write(path, O_TRUNC, Access::rewrite);
  }

  std::unique_ptr<File> create_private(const std::string& path) override {
    // O_EXCL: a file that was there may be open for others, whatever its mode becomes.
    return open_to_write(path, O_EXCL, Access::rewrite, 0600);
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) < 0) throw_failed("rename to " + to + " of", from, errno);
  }

  bool rename_new(const std::string& from, const std::string& to) override {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
    if (errno == EEXIST) return false;
    // The kernel or the file system does not know the flag.
    if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) return rename_new_by_link(from, to);
    throw_failed("rename to " + to + " of", from, errno);
  }

  bool remove(const std::string& path) override {
    if (::unlink(path.c_str()) == 0) return true;
    // Linux says EISDIR for a directory, POSIX EPERM.
    if ((errno == EISDIR || errno == EPERM) && ::rmdir(path.c_str()) == 0) return true;
    if (is_missing(errno)) return false;
    throw_failed("remove", path, errno);
  }

  void make_directories(const std::string& path) override {
    const std::string parent = parent_path(path);
    int result = ::mkdir(path.c_str(), 0755);
    if (result == 0) {
      sync_name_found(parent);
    } else if (errno == ENOENT && parent != path) {
      make_directories(parent);
      result = ::mkdir(path.c_str(), 0755);
    }
    if (result == 0) {
      sync_directory(parent);
      return;
    }
    const int error = errno;
    const std::optional<FileInfo> there = stat(path);
    if (!there || !there->is_directory) throw_failed("mkdir", path, error);
    sync_name_found(path);
  }

  void sync_directory(const std::string& path) override {
    const Descriptor descriptor = open_descriptor(path, O_RDONLY | O_DIRECTORY);
    if (!descriptor.is_open()) throw_failed("open", path, errno);
    // Not fdatasync: ext4 may count a new name in a block that was there as no data.
    sync_or_throw(::fsync, descriptor.get(), path);
  }

  std::optional<std::vector<FileInfo>> list(const std::string& path) override {
    Descriptor descriptor = open_descriptor(path, O_RDONLY | O_DIRECTORY);
    if (!descriptor.is_open()) {
      if (is_missing(errno)) return std::nullopt;
      throw_failed("open", path, errno);
    }
    // The stream gets a descriptor of its own, because closedir closes it.
    const int duplicate = ::fcntl(descriptor.get(), F_DUPFD_CLOEXEC, 0);
    if (duplicate < 0) throw_failed("open", path, errno);
    const std::unique_ptr<DIR, decltype([](DIR* stream) { ::closedir(stream); })> stream(::fdopendir(duplicate));
    if (!stream) {
      const int error = errno;
      const Descriptor closes_it(duplicate);
      throw_failed("list", path, error);
    }

    const std::string prefix = path.ends_with('/') ? path : path + "/";
    std::vector<FileInfo> entries;
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) {
        if (errno != 0) throw_failed("list", path, errno);
        break;
      }
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      // One that was removed since it was listed is not there.
      if (auto info = stat_at(descriptor.get(), entry->d_name, prefix + entry->d_name)) {
        entries.push_back(std::move(*info));
      }
    }
    std::sort(entries.begin(), entries.end(), [](const FileInfo& a, const FileInfo& b) { return a.path < b.path; });
    return entries;
  }

  std::optional<FileInfo> stat(const std::string& path) override { return stat_at(AT_FDCWD, path.c_str(), path); }

 private:
  // Of a directory that was there: whoever made it may have been killed before its name was synced. One that lies where
  // this process may not look, or where nothing can be synced, was not made here.
  static void sync_name_found(const std::string& path) {
    const std::string parent = parent_path(path);
    const Descriptor descriptor = open_descriptor(parent, O_RDONLY | O_DIRECTORY);
    if (descriptor.is_open()) sync_or_die(::fsync, descriptor.get(), parent);
  }

  static Descriptor open_descriptor(const std::string& path, int flags, mode_t mode = 0644) {
    return Descriptor(uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, mode); }));
  }

  static std::unique_ptr<File> open_to_write(const std::string& path, int flags, Access access, mode_t mode = 0644) {
    Descriptor descriptor = open_descriptor(path, O_RDWR | O_CREAT | flags, mode);
    if (!descriptor.is_open()) throw_failed("open", path, errno);
    return std::make_unique<LocalFile>(std::move(descriptor), path, access);
  }
};

}  // namespace

bool rename_new_by_link(const std::string& from, const std::string& to) {
  // A link never replaces.
  if (::link(from.c_str(), to.c_str()) < 0) {
    if (errno == EEXIST) return false;
    throw_failed("link to " + to + " of", from, errno);
  }
  if (::unlink(from.c_str()) < 0) throw_failed("remove", from, errno);
  return true;
}

std::unique_ptr<FileSystem> make_local_files() { return std::make_unique<LocalFiles>(); }

}  // namespace sluice::detail
